"""`cprm-train score` and `cprm-train evaluate`: score files, written and measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from training.commands.shared import DATA_HELP


def add_parsers(commands: Any) -> None:
    score = commands.add_parser("score", help="score a pair file with a bundle, as the service would")
    score.add_argument(
        "--bundle", type=Path, required=True, help="version folder, such as runs/bundles/miniapps/1"
    )
    score.add_argument("--data", type=Path, required=True, help=DATA_HELP)
    score.add_argument(
        "--labels", type=Path, required=True, help="tab-separated query, item_id, label (.gz too)"
    )
    score.add_argument("--out", type=Path, required=True, help="tab-separated query, item_id, label, score")
    score.set_defaults(run=_score)

    evaluate = commands.add_parser(
        "evaluate", help="metrics of score files with intervals and slices, and differences to the first"
    )
    evaluate.add_argument("scores", type=Path, nargs="+", help="what `cprm-train score` wrote")
    evaluate.add_argument("--data", type=Path, required=True, help=DATA_HELP)
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
