"""`cprm-train`: arguments in, one call, errors as one line. All work is in functions a notebook can call."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from model_repo.bundle import BundleError
from training.teacher.cli import add_parser as add_teach_parser

_DATA_HELP = "folder of the data set: dataset.json, items, labels, clicks (docs/data.md)"


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, 1 for an error the user can mend, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    # Imports of torch take seconds; `--help` must not pay for them.
    from training.config import ConfigError
    from training.data.problems import DataError
    from training.export.exporter import ParityError

    try:
        return int(arguments.run(arguments))
    except (BundleError, ConfigError, DataError, ParityError) as error:
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
    evaluate = commands.add_parser(
        "evaluate", help="metrics of score files with intervals and slices, and differences to the first"
    )
    evaluate.add_argument("scores", type=Path, nargs="+", help="what `cprm-train score` wrote")
    evaluate.add_argument("--data", type=Path, required=True, help=_DATA_HELP)
    evaluate.add_argument(
        "--split", choices=("dev", "test"), help="refuse files that do not hold exactly this split's labels"
    )
    evaluate.add_argument(
        "--threshold",
        type=float,
        help="score from which on a pair counts as relevant for F1 and accuracy; default 0.5, calibrated",
    )
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write all numbers there")
    evaluate.set_defaults(run=_evaluate)
    add_teach_parser(commands)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from model_repo.repository import Repository
    from training.config import ConfigError, load_config
    from training.stages.run import open_workshop, run_recipe

    config = load_config(arguments.config)
    data = arguments.data or config.data
    if data is None:
        raise ConfigError(f"{arguments.config}: has no `data`; name the data set with --data")
    out = arguments.out or Path("runs") / arguments.config.stem
    command = f"cprm-train run --config {shlex.quote(os.fspath(arguments.config))} --data {_shown(data)}"
    bundle = run_recipe(open_workshop(config, data, out), Repository(arguments.bundles), command=command)
    print(f"bundle {bundle.path}\nreport {out / 'report.html'}")
    return 0


def _shown(data: Path) -> str:
    """The data set as the model card names it: by its variable where it lies outside the project."""
    msrd = os.environ.get("CPRM_MSRD_DIR")
    return (
        "$CPRM_MSRD_DIR" if msrd and data.resolve() == Path(msrd).resolve() else shlex.quote(os.fspath(data))
    )


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


def _evaluate(arguments: argparse.Namespace) -> int:
    from model_repo.bundle import replace_text
    from training.report.tables import comparison_tables
    from training.stages.compare import compare_files

    result = compare_files(
        arguments.scores, arguments.data, split=arguments.split, threshold=arguments.threshold
    )
    print(comparison_tables(result))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        replace_text(arguments.json, json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
