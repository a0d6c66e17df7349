"""`cprm-train data`: look at a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands.shared import DATA_HELP


def add_parser(commands: Any) -> None:
    data = commands.add_parser("data", help="look at a data set").add_subparsers(
        required=True, metavar="COMMAND"
    )
    check = data.add_parser("check", help="validate every file and count what is there")
    check.add_argument("dir", type=Path, help=DATA_HELP)
    check.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    from training.data.check import check_dataset, render

    report = check_dataset(arguments.dir)
    print(render(report))
    return 0 if report.ok else 1
