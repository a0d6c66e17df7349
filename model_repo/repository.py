"""A folder of bundles, laid out as a Triton model repository: names, versions, aliases."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from model_repo.bundle import BundleError, replace_text

ALIASES = ("production", "candidate")
_VERSION = re.compile(r"[1-9][0-9]*")
_SCRATCH_AGE_S = 24 * 3600


class Repository:
    """`root/<name>/<version>/` with aliases as one-line files in `root/<name>/aliases/`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Bundles that have at least one version, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and self.versions(path.name))

    def versions(self, name: str) -> list[str]:
        """Versions of a bundle, oldest first."""
        folder = self.root / name
        found = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        return sorted((version for version in found if _VERSION.fullmatch(version)), key=int)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias -> version, for the aliases that are set."""
        files = {alias: self._alias_file(name, alias) for alias in ALIASES}
        return {alias: path.read_text().strip() for alias, path in files.items() if path.is_file()}

    def resolve(self, name: str, version: str | None = None) -> Path:
        """Folder of a version number or alias; None means production, or the newest where nothing is promoted.

        Raises BundleError naming what exists.
        """
        versions = self.versions(name)
        if not versions:
            raise BundleError(
                f"{self.root / name}: no bundle of this name; there are {self.names() or 'none'}"
            )
        aliases = self.aliases(name)
        wanted = version or aliases.get("production", versions[-1])
        wanted = aliases.get(wanted, wanted)
        if wanted not in versions:
            raise BundleError(f"{self.root / name}: no version or alias {wanted!r}; there are {versions}")
        return self.root / name / wanted

    def next_version(self, name: str) -> str:
        versions = self.versions(name)
        return str(int(versions[-1]) + 1) if versions else "1"

    def promote(self, name: str, version: str, alias: str = "production") -> None:
        """Point an alias at a version, atomically. The caller has verified the version."""
        if alias not in ALIASES:
            raise BundleError(f"alias {alias!r}: must be one of {', '.join(ALIASES)}")
        target = self.resolve(name, version).name
        path = self._alias_file(name, alias)
        path.parent.mkdir(exist_ok=True)
        replace_text(path, target + "\n")

    def gc(self, name: str, *, keep: int) -> list[Path]:
        """Remove all but the newest `keep` versions and those an alias names; also stale scratch folders."""
        versions = self.versions(name)
        kept = {*versions[-keep:], *self.aliases(name).values()} if keep else set(self.aliases(name).values())
        doomed = [self.root / name / version for version in versions if version not in kept]
        for path in (self.root / name).glob(".*"):
            if path.is_dir() and time.time() - path.stat().st_mtime > _SCRATCH_AGE_S:
                doomed.append(path)
        for path in doomed:
            # A reader must never meet half a version: it disappears by rename first.
            hidden = path.with_name(f".gc.{path.name.lstrip('.')}")
            shutil.rmtree(path.rename(hidden))
        return doomed

    def _alias_file(self, name: str, alias: str) -> Path:
        return self.root / name / "aliases" / alias
