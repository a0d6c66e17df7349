"""What a killed training run needs to go on with the identical next batch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

# GLM-2B writes 21 GiB: at most a twentieth of the time goes into checkpoints.
_SHARE_OF_SAVING = 20


class Stateful(Protocol):
    """Model, optimiser, gradient scaler."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


class Restorable(Protocol):
    """Stream, watch."""

    def state(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


@dataclass(slots=True)
class Position:
    """How far a run is, and its curve."""

    seen: int = 0
    points: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last point."""
    rate: float = 0.0
    seconds: float = 0.0
    """Time in the loop over all starts, but what a killed one did after its last checkpoint."""


@dataclass(frozen=True, slots=True)
class Journal:
    """Where a stage keeps its checkpoint, and where TensorBoard finds its curve."""

    checkpoint: Path
    events: Path
    every_s: float = 60.0
    """Least time between checkpoints; where writing one takes long, twenty times that."""


class Checkpointer:
    """Saves and restores everything that the next step depends on. Without a journal it does nothing."""

    def __init__(
        self, journal: Journal | None, *, tensors: Mapping[str, Stateful], places: Mapping[str, Restorable]
    ) -> None:
        self._journal, self._tensors, self._places = journal, tensors, places
        self._saved, self._pause = time.monotonic(), journal.every_s if journal else math.inf

    def resume(self) -> Position:
        """Put everything back to the last checkpoint; a fresh position where there is none."""
        if self._journal is None or not self._journal.checkpoint.exists():
            return Position()
        state = torch.load(self._journal.checkpoint, map_location="cpu", weights_only=True)
        for name, part in self._tensors.items():
            part.load_state_dict(state[name])
        for name, place in self._places.items():
            place.restore(state[name])
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])
        return Position(**state["position"])

    def save_if_due(self, position: Position) -> None:
        start = time.monotonic()
        if self._journal is None or start - self._saved <= self._pause:
            return
        self._save(self._journal.checkpoint, position)
        self._saved = time.monotonic()
        self._pause = max(self._journal.every_s, _SHARE_OF_SAVING * (self._saved - start))

    def _save(self, checkpoint: Path, position: Position) -> None:
        """Under another name first: a process killed while writing leaves the last checkpoint whole."""
        scratch = checkpoint.with_suffix(".part")
        state = {
            **{name: part.state_dict() for name, part in self._tensors.items()},
            **{name: place.state() for name, place in self._places.items()},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "position": asdict(position),
        }
        with scratch.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(checkpoint)
