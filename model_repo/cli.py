"""`cprm-bundle`: look at, verify, promote and clean up bundles."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from model_repo.bundle import Bundle, BundleError, read_manifest
from model_repo.golden import replay
from model_repo.repository import ALIASES, Repository


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, or 1 with one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(Repository(arguments.bundles), arguments)
    except BundleError as error:
        print(f"cprm-bundle: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cprm-bundle", description="Look after a repository of bundles.")
    default = Path(os.environ.get("CPRM_MODEL_REPO", "model_repo/bundles"))
    parser.add_argument(
        "--bundles", type=Path, default=default, help=f"folder of bundles (default {default})"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    commands.add_parser("list", help="names, versions and aliases").set_defaults(run=_list)
    describe = commands.add_parser("describe", help="the model card of a version")
    verify = commands.add_parser("verify", help="prove checksums and replay golden pairs")
    promote = commands.add_parser("promote", help="verify a version, then point an alias at it")
    gc = commands.add_parser("gc", help="remove old versions that no alias names, and stale scratch folders")
    for command, run in ((describe, _describe), (verify, _verify), (promote, _promote), (gc, _gc)):
        command.add_argument("name")
        command.set_defaults(run=run)
    for command in (describe, verify):
        command.add_argument("version", nargs="?", help="version or alias; default production")
    promote.add_argument("version")
    promote.add_argument("--alias", choices=ALIASES, default="production")
    gc.add_argument("--keep", type=int, default=3, metavar="N", help="newest versions to keep (default 3)")
    return parser


def _list(repository: Repository, arguments: argparse.Namespace) -> None:
    for name in repository.names():
        aliases = repository.aliases(name)
        for version in repository.versions(name):
            named = ", ".join(alias for alias, target in aliases.items() if target == version)
            manifest = read_manifest(repository.root / name / version)
            print(f"{name}/{version}\t{manifest.fingerprint[:12]}\t{manifest.provenance.created}\t{named}")


def _describe(repository: Repository, arguments: argparse.Namespace) -> None:
    version_dir = repository.resolve(arguments.name, arguments.version)
    print((version_dir / "README.md").read_text(encoding="utf-8"))


def _verify(repository: Repository, arguments: argparse.Namespace) -> None:
    from model_repo.runtime import OnnxScorer

    bundle = Bundle.load(repository.resolve(arguments.name, arguments.version))
    for graph in bundle.manifest.graphs:
        started = time.perf_counter()
        scorer = OnnxScorer(bundle, graph=graph)
        report = replay(bundle.golden, bundle.encoder, scorer.logits)
        if not report.ok:
            raise BundleError(f"{bundle.path}: {scorer.numerics}: {report.detail}")
        print(
            f"{bundle.name}/{bundle.version} {scorer.numerics}: checksums right, {len(bundle.golden)} golden pairs "
            f"within {report.max_abs_diff:.1e} ({time.perf_counter() - started:.1f} s)"
        )


def _promote(repository: Repository, arguments: argparse.Namespace) -> None:
    _verify(repository, arguments)
    repository.promote(arguments.name, arguments.version, arguments.alias)
    print(f"{arguments.alias} of {arguments.name} is {arguments.version}")


def _gc(repository: Repository, arguments: argparse.Namespace) -> None:
    for path in repository.gc(arguments.name, keep=arguments.keep):
        print(f"removed {path}")


if __name__ == "__main__":
    sys.exit(main())
