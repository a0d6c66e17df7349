"""`cprm-train`: arguments in, one call, errors as one line. All work is in functions a notebook can call."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model_repo.bundle import BundleError
from training.plan.cli import add_arguments as add_plan_arguments
from training.plan.cli import print_plan
from training.teacher.cli import add_parser as add_teach_parser

if TYPE_CHECKING:
    from training.config import RunConfig

_DATA_HELP = "folder of the data set: dataset.json, items, labels, clicks (docs/data.md)"


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, 1 for an error the user can mend, 130 when interrupted."""
    # Spinning OpenMP pools halt each other wherever two processes share cores; sleeping ones cost a few percent.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = _parser().parse_args(argv)
    # Imports of torch take seconds; `--help` must not pay for them.
    from training.config import ConfigError
    from training.data.problems import DataError
    from training.export.exporter import ParityError
    from training.models.glm.folder import CheckpointError

    try:
        return int(arguments.run(arguments))
    except (BundleError, CheckpointError, ConfigError, DataError, ParityError) as error:
        print(f"cprm-train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cprm-train: interrupted; the same command goes on with the stage it was in", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cprm-train", description="Train relevance models by the CPRM recipe."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="the whole recipe: corpora, pre-training, SFT, evaluation, bundle, report"
    )
    run.add_argument(
        "--config", type=Path, required=True, help="a YAML file such as training/configs/demo.yaml"
    )
    run.add_argument("--data", type=Path, help=_DATA_HELP + "; default: `data` of the config")
    run.add_argument("--out", type=Path, help="run folder; default runs/<name of the config>")
    run.add_argument("--bundles", type=Path, default=Path("runs/bundles"), help="where the bundle goes")
    add_plan_arguments(run)
    run.set_defaults(run=_run)

    data = commands.add_parser("data", help="look at a data set").add_subparsers(
        required=True, metavar="COMMAND"
    )
    check = data.add_parser("check", help="validate every file and count what is there")
    check.add_argument("dir", type=Path, help=_DATA_HELP)
    check.set_defaults(run=_check)

    score = commands.add_parser("score", help="score a pair file with a bundle, as the service would")
    score.add_argument(
        "--bundle", type=Path, required=True, help="version folder, such as runs/bundles/miniapps/1"
    )
    score.add_argument("--data", type=Path, required=True, help=_DATA_HELP)
    score.add_argument(
        "--labels", type=Path, required=True, help="tab-separated query, item_id, label (.gz too)"
    )
    score.add_argument("--out", type=Path, required=True, help="tab-separated query, item_id, label, score")
    score.set_defaults(run=_score)

    base = commands.add_parser(
        "base", help="pre-train a small GLM on catalogues where no checkpoint is at hand"
    )
    base.add_argument(
        "--config",
        type=Path,
        default=Path("training/configs/base/glm-small.yaml"),
        help="default: %(default)s",
    )
    base.add_argument(
        "--data", type=Path, action="append", required=True, help=_DATA_HELP + "; may be repeated"
    )
    base.add_argument(
        "--out", type=Path, default=Path("runs/glm-small"), help="checkpoint folder; default: %(default)s"
    )
    base.set_defaults(run=_base)

    ablate = commands.add_parser("ablate", help="what each module adds, over seeds and label shares")
    ablate.add_argument(
        "--config", type=Path, required=True, help="a YAML file such as training/configs/ablation/sample.yaml"
    )
    ablate.add_argument("--data", type=Path, help=_DATA_HELP + "; default: `run.data` of the config")
    ablate.add_argument(
        "--out", type=Path, help="folder of the cells and the page; default runs/ablation-<name of the config>"
    )
    ablate.add_argument(
        "--seeds", type=int, nargs="+", help="run only these; processes with different seeds may share --out"
    )
    ablate.set_defaults(run=_ablate)
    add_teach_parser(commands)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from model_repo.repository import Repository
    from training.config import load_config
    from training.stages.run import open_workshop, run_recipe

    config = load_config(arguments.config)
    data = _data(arguments, config)
    if arguments.dry_run:
        return print_plan(config, data, arguments)
    out = arguments.out or Path("runs") / arguments.config.stem
    command = f"cprm-train run --config {shlex.quote(os.fspath(arguments.config))} --data {_shown(data)}"
    bundle = run_recipe(open_workshop(config, data, out), Repository(arguments.bundles), command=command)
    print(f"bundle {bundle.path}\nreport {out / 'report.html'}")
    return 0


def _data(arguments: argparse.Namespace, config: RunConfig) -> Path:
    from training.config import ConfigError

    data: Path | None = arguments.data or config.data
    if data is None:
        raise ConfigError(f"{arguments.config}: has no `data`; name the data set with --data")
    return data


def _shown(data: Path) -> str:
    """The data set as the model card names it: by its variable where it lies outside the project."""
    msrd = os.environ.get("CPRM_MSRD_DIR")
    return (
        "$CPRM_MSRD_DIR" if msrd and data.resolve() == Path(msrd).resolve() else shlex.quote(os.fspath(data))
    )


def _ablate(arguments: argparse.Namespace) -> int:
    from training.ablation.compare import compare_cells
    from training.ablation.grid import load_ablation
    from training.ablation.report import write_page
    from training.ablation.run import open_data, run_grid

    grid = load_ablation(arguments.config)
    out = arguments.out or Path("runs") / f"ablation-{arguments.config.stem}"
    dataset = open_data(grid, _data(arguments, grid.run))
    run_grid(grid, dataset, out, seeds=arguments.seeds)
    print(f"page {write_page(compare_cells(grid, dataset, out), out)}")
    return 0


def _base(arguments: argparse.Namespace) -> int:
    from training.stages.base import load_base_config, pretrain_base

    print(pretrain_base(load_base_config(arguments.config), arguments.data, arguments.out))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from training.data.check import check_dataset, render

    report = check_dataset(arguments.dir)
    print(render(report))
    return 0 if report.ok else 1


def _score(arguments: argparse.Namespace) -> int:
    from training.stages.score import score_file

    count = score_file(arguments.bundle, arguments.data, arguments.labels, arguments.out)
    print(f"{count} pairs -> {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
