"""`cprm-train`: arguments in, one call, errors as one line. All work is in functions a notebook can call."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from model_repo.bundle import BundleError
from training.commands import ablate, base, data, probe, recipe, scores, teach
from training.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, 1 for an error the user can mend, 130 when interrupted."""
    # Spinning OpenMP pools halt each other wherever two processes share cores; sleeping ones cost a few percent.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (BundleError, UserError) as error:
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
    data.add_parser(commands)
    teach.add_parser(commands)
    base.add_parser(commands)
    recipe.add_parsers(commands)
    probe.add_parser(commands)
    scores.add_parsers(commands)
    ablate.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
