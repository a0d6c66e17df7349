"""`cprm-train run`, and its first stages as commands of their own: each goes on from what the folder holds."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from training.commands.plan import add_arguments as add_plan_arguments
from training.commands.plan import print_plan
from training.commands.shared import DATA_HELP, data_folder

_STAGES = {
    "corpus": "build and write the corpora, and stop",
    "pretrain": "corpora and continual pre-training, and stop",
    "sft": "everything up to fine-tuning, and stop",
    "export": "everything up to the bundle: the whole recipe",
}


def add_parsers(commands: Any) -> None:
    """Add `run`, `corpus`, `pretrain`, `sft` and `export`."""
    run = commands.add_parser(
        "run", help="the whole recipe: corpora, pre-training, SFT, evaluation, bundle, report"
    )
    _add_arguments(run)
    add_plan_arguments(run)
    run.set_defaults(run=_run, until="export")
    for name, text in _STAGES.items():
        stage = commands.add_parser(name, help=text)
        _add_arguments(stage)
        stage.set_defaults(run=_run, until=name, dry_run=False)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, required=True, help="a YAML file such as training/configs/demo.yaml"
    )
    parser.add_argument("--data", type=Path, help=DATA_HELP + "; default: `data` of the config")
    parser.add_argument("--out", type=Path, help="run folder; default runs/<name of the config>")
    parser.add_argument("--bundles", type=Path, default=Path("runs/bundles"), help="where the bundle goes")


def _run(arguments: argparse.Namespace) -> int:
    from model_repo.repository import Repository
    from training.config import load_config
    from training.stages.run import fine_tune_all, open_workshop, pretrain, run_recipe, write_corpora

    config = load_config(arguments.config)
    data = data_folder(arguments, config)
    if arguments.dry_run:
        return print_plan(config, data, arguments)
    out = arguments.out or Path("runs") / arguments.config.stem
    shop = open_workshop(config, data, out)
    if arguments.until == "corpus":
        print(f"corpora {write_corpora(shop)}")
        return 0
    if arguments.until in ("pretrain", "sft"):
        pretrain(shop)
        if arguments.until == "sft":
            fine_tune_all(shop)
        print(f"run folder {out}")
        return 0
    command = f"cprm-train run --config {shlex.quote(os.fspath(arguments.config))} --data {_shown(data)}"
    bundle = run_recipe(shop, Repository(arguments.bundles), command=command)
    print(f"bundle {bundle.path}\nreport {out / 'report.html'}")
    return 0


def _shown(data: Path) -> str:
    """The data set as the model card names it: by its variable where it lies outside the project."""
    msrd = os.environ.get("CPRM_MSRD_DIR")
    return (
        "$CPRM_MSRD_DIR" if msrd and data.resolve() == Path(msrd).resolve() else shlex.quote(os.fspath(data))
    )
