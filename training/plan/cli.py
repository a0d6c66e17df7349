"""`cprm-train run --dry-run`: its arguments, and the plan as tables or JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

# torch takes seconds to import; `--help` must not pay for it.
if TYPE_CHECKING:
    from training.config import RunConfig


def add_arguments(run: argparse.ArgumentParser) -> None:
    """Add the dry run to the arguments of `run`."""
    dry = run.add_argument_group("dry run")
    dry.add_argument(
        "--dry-run",
        action="store_true",
        help="build and count the corpora; print steps, memory and time; train nothing",
    )
    dry.add_argument(
        "--machine",
        help="h100-80gb, h200-141gb, a100-80gb, l40s-48gb, l4-24gb or this-machine; default: of the config, else this",
    )
    dry.add_argument(
        "--mfu", type=_share, help="share of the machine's peak that training reaches, such as 0.4"
    )
    dry.add_argument("--json", action="store_true", help="print the plan as JSON instead of tables")


def print_plan(config: RunConfig, data: Path, arguments: argparse.Namespace) -> int:
    """Print the plan, and write plan.json into the run folder where --out names one."""
    from rich.console import Console

    from model_repo.bundle import replace_text
    from training.plan.estimate import plan_run
    from training.plan.render import show_plan

    # Bars of embedding and mining go beside the plan, never into its JSON.
    with contextlib.redirect_stdout(sys.stderr):
        plan = plan_run(config, data, machine=arguments.machine, mfu=arguments.mfu)
    written = json.dumps(plan.as_dict(), indent=1) + "\n"
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        replace_text(arguments.out / "plan.json", written)
    if arguments.json:
        print(written, end="")
    else:
        # A pipe has no width of its own.
        show_plan(plan, Console(width=None if sys.stdout.isatty() else 110))
    return 0


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a share of the peak, above 0 and at most 1")
    return share
