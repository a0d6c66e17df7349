"""`cprm-train ablate`: run what is missing of a grid, compare, write the page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands.shared import DATA_HELP, data_folder


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "ablate", help="what each module adds, over seeds and label shares"
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="a YAML file such as training/configs/ablation/sample.yaml"
    )
    parser.add_argument("--data", type=Path, help=DATA_HELP + "; default: `run.data` of the config")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the cells and the page; default runs/ablation-<name of the config>",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="run only these; processes with different seeds may share --out"
    )
    parser.set_defaults(run=_ablate)


def _ablate(arguments: argparse.Namespace) -> int:
    from training.ablation.compare import compare_cells
    from training.ablation.grid import load_ablation
    from training.ablation.report import write_page
    from training.ablation.run import open_data, run_grid

    grid = load_ablation(arguments.config)
    out = arguments.out or Path("runs") / f"ablation-{arguments.config.stem}"
    dataset = open_data(grid, data_folder(arguments, grid.run))
    run_grid(grid, dataset, out, seeds=arguments.seeds)
    print(f"page {write_page(compare_cells(grid, dataset, out), out)}")
    return 0
