"""The run folder: what each stage leaves behind, and how a second start finds it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel

from model_repo.bundle import replace_text
from training.config import ConfigError
from training.data.lines import find
from training.loop import Journal
from training.models.base import RelevanceModel

_ABSENT = "nothing"
_SHOWN = 5
_READ = (
    "dataset.json",
    "items.jsonl",
    "clicks.tsv",
    "clicks.parquet",
    "labels.train.tsv",
    "labels.dev.tsv",
    "labels.test.tsv",
    "rcd.jsonl",
    "queries.jsonl",
    "cold_items.txt",
)


class RunFolder:
    """`config.yaml`, `data.json`, one `<stage>.json` a finished stage, `<stage>.pt` where it left weights."""

    def __init__(self, root: Path, config: BaseModel) -> None:
        """Raises ConfigError naming what differs when the folder belongs to another configuration."""
        self.root = root
        self._training = False
        root.mkdir(parents=True, exist_ok=True)
        resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        path = root / "config.yaml"
        if path.exists() and (before := path.read_text(encoding="utf-8")) != resolved:
            raise ConfigError(
                f"{path}: holds another configuration ({_differences(before, resolved)}); "
                f"remove {root} or choose another --out"
            )
        replace_text(path, resolved)

    @contextmanager
    def training(self) -> Iterator[None]:
        """No other process trains here until the block ends, or this process does; blocks may be nested.

        Raises ConfigError when another one does: two would overwrite each other's checkpoint.
        """
        if self._training:
            yield
            return
        with (self.root / "lock").open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"{self.root}: another process trains there; wait for it or choose another --out"
                ) from error
            self._training = True
            try:
                yield
            finally:
                self._training = False

    def bind(self, *data: Path) -> None:
        """Tie the folder to what these data sets hold now. Raises ConfigError when it was made from other data.

        The configuration does not say it: `--data` names any data set, and files change in place.
        """
        path = self.root / "data.json"
        now = [_digest(folder) for folder in data]
        if path.exists() and (before := json.loads(path.read_text(encoding="utf-8"))) != now:
            changed = {
                name
                for old, new in zip(before, now, strict=False)
                for name in old.keys() | new.keys()
                if old.get(name) != new.get(name)
            }
            said = ", ".join(sorted(changed)) or "another number of data sets"
            raise ConfigError(
                f"{self.root}: was made from other data ({said}); remove it or choose another --out"
            )
        replace_text(path, json.dumps(now, indent=1) + "\n")

    def result(self, stage: str) -> Any:
        """What the stage wrote when it finished, or None."""
        path = self.root / f"{stage}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def finish(self, stage: str, result: Any, model: RelevanceModel | None = None) -> None:
        """Record a stage as done: weights first, so that a record always has them; its checkpoint goes last."""
        if model is not None:
            scratch = self.root / f".{stage}.pt"
            with scratch.open("wb") as file:
                torch.save(model.state_dict(), file)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(self._weights(stage))
        replace_text(self.root / f"{stage}.json", json.dumps(result, indent=1) + "\n")
        self.journal(stage).checkpoint.unlink(missing_ok=True)

    def forget(self, stage: str) -> None:
        """Remove what a stage left, the record first: without it the stage runs again, whatever else is there."""
        (self.root / f"{stage}.json").unlink(missing_ok=True)
        self._weights(stage).unlink(missing_ok=True)

    def has_weights(self, stage: str) -> bool:
        return self._weights(stage).exists()

    def journal(self, stage: str) -> Journal:
        """Where a killed stage finds its last state, and TensorBoard its curve."""
        return Journal(self.root / f"{stage}.checkpoint", self.root / "tensorboard" / stage)

    def load_weights(self, stage: str, model: RelevanceModel) -> None:
        model.load_state_dict(torch.load(self._weights(stage), map_location="cpu", weights_only=True))

    def _weights(self, stage: str) -> Path:
        return self.root / f"{stage}.pt"


def code_commit() -> str | None:
    """The commit of this code where it runs from a checkout and git is there."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,  # not the user's folder, which may be a repository of its own
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def _differences(before: str, now: str) -> str:
    """The keys in which two resolved configurations differ, with both values; the first few."""
    try:
        old, new = (dict(_leaves(yaml.safe_load(text))) for text in (before, now))
    except yaml.YAMLError:
        return "it is not YAML"
    keys = [key for key in old | new if old.get(key, _ABSENT) != new.get(key, _ABSENT)]
    shown = [f"{key}: {old.get(key, _ABSENT)} there, {new.get(key, _ABSENT)} here" for key in keys[:_SHOWN]]
    more = [f"and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else []
    return "; ".join([*shown, *more]) or "written otherwise"


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a nested mapping, each with its value."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _digest(data: Path) -> dict[str, str]:
    """Checksum of every file of a data set that a run reads."""
    digests = {}
    for name in _READ:
        if path := find(data, name):
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
