"""Read and write one bundle version. Reading proves every checksum; writing is all or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer

from model_repo.calibration import Calibration
from model_repo.encoding import PairEncoder
from model_repo.golden import GoldenPair, read_golden
from model_repo.manifest import Manifest

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
GOLDEN = "golden.jsonl"


class BundleError(Exception):
    """A bundle cannot be read, or must not be written; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One verified version."""

    path: Path
    manifest: Manifest
    encoder: PairEncoder
    golden: list[GoldenPair]

    @staticmethod
    def load(version_dir: Path) -> Bundle:
        """Read and verify a version. Raises BundleError naming the file that is missing, corrupt or invalid."""
        manifest = read_manifest(version_dir)
        verify_files(version_dir, manifest)
        try:
            encoder = PairEncoder(manifest.spec, Tokenizer.from_file(str(version_dir / TOKENIZER)))
            golden = read_golden(version_dir / GOLDEN)
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{version_dir}: {error}") from error
        return Bundle(version_dir, manifest, encoder, golden)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def calibration(self) -> Calibration:
        return self.manifest.calibration


def read_manifest(version_dir: Path) -> Manifest:
    """Raises BundleError when manifest.json is absent, broken, or belongs elsewhere."""
    path = version_dir / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"{path}: missing; the version is incomplete, export or copy it again") from error
    except (ValidationError, OSError) as error:
        raise BundleError(f"{path}: {error}") from error
    if (manifest.name, manifest.version) != (version_dir.parent.name, version_dir.name):
        where = f"{version_dir.parent.name}/{version_dir.name}"
        raise BundleError(f"{path}: is for {manifest.name}/{manifest.version} but lies in {where}")
    return manifest


def verify_files(version_dir: Path, manifest: Manifest) -> None:
    """Raises BundleError naming the first file whose sha256 is not the manifest's."""
    for name in (TOKENIZER, GOLDEN):
        if name not in manifest.files:
            raise BundleError(f"{version_dir / MANIFEST}: lists no checksum for {name}")
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise BundleError(f"{version_dir / MANIFEST}: {name!r} is not a plain file name")
        path = version_dir / name
        if not path.is_file():
            raise BundleError(f"{path}: missing, the manifest lists it; copy the version again")
        actual = sha256(path)
        if actual != expected:
            raise BundleError(
                f"{path}: differs from the manifest (sha256 {actual[:12]}, expected {expected[:12]}); "
                "copy the version again"
            )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing_version(model_dir: Path, version: str) -> Iterator[Path]:
    """Yield a scratch folder that becomes `model_dir/version` when the block ends without an error.

    The rename is the commit: a killed writer leaves only a dot folder, which nobody reads and `gc` removes.
    Raises BundleError when the version exists: versions are never rewritten.
    """
    target = model_dir / version
    model_dir.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise BundleError(f"{target}: exists already; versions are immutable, export to the next one")
    scratch = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=model_dir))
    try:
        yield scratch
        scratch.chmod(0o755)
        for path in (*scratch.iterdir(), scratch):
            _fsync(path)
        try:
            scratch.rename(target)  # fails when another writer was first: the target is not empty
        except OSError as error:
            raise BundleError(f"{target}: another writer was first; export to the next version") from error
        _fsync(model_dir)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Write a small file atomically: readers see the old or the new content, never half."""
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
