"""`cprm-train base`: a GLM checkpoint from catalogues."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands.shared import DATA_HELP


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "base", help="pre-train a small GLM on catalogues where no checkpoint is at hand"
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("training/configs/base/glm-small.yaml"),
        help="default: %(default)s",
    )
    parser.add_argument(
        "--data", type=Path, action="append", required=True, help=DATA_HELP + "; may be repeated"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/glm-small"), help="checkpoint folder; default: %(default)s"
    )
    parser.set_defaults(run=_base)


def _base(arguments: argparse.Namespace) -> int:
    from training.stages.base import load_base_config, pretrain_base

    print(pretrain_base(load_base_config(arguments.config), arguments.data, arguments.out))
    return 0
