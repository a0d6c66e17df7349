"""`cprm-train probe`: train by a configuration, with changes, and measure on dev alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands.shared import DATA_HELP, data_folder


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "probe", help="what a change of the configuration is worth on dev; test is not read"
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="a YAML file such as training/configs/demo.yaml"
    )
    parser.add_argument(
        "--set",
        dest="changes",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="change a field of the configuration, such as sft.optimiser.tokens=200000; may be repeated",
    )
    parser.add_argument("--data", type=Path, help=DATA_HELP + "; default: `data` of the config")
    parser.add_argument("--dev-queries", type=int, help="measure on so many queries of dev, drawn evenly")
    parser.add_argument("--out", type=Path, required=True, help="run folder, one for every set of changes")
    parser.set_defaults(run=_probe)


def _probe(arguments: argparse.Namespace) -> int:
    from training.config import load_config
    from training.data.dataset import load_dataset
    from training.report.tables import probe_table
    from training.stages.probe import probe
    from training.stages.run import open_workshop

    config = load_config(arguments.config, arguments.changes)
    dataset = load_dataset(data_folder(arguments, config), strict=False)
    if arguments.dev_queries is not None:
        dataset.sample("dev", arguments.dev_queries)
    print(probe_table(probe(open_workshop(config, dataset, arguments.out))))
    return 0
