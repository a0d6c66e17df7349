"""Endless batch streams that can be put back to any point: what they yield follows from a few integers.

Randomness is drawn from generators seeded by (seed, step) and (seed, name, epoch), never carried along, so the
state of a stream is its step and one cursor for each corpus.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Model inputs, which loss they are for, and how many of their tokens are real."""

    inputs: Mapping[str, Tensor]
    tokens: int
    objective: str = ""


class Stream(Protocol):
    """Batches without end. After `restore(state())` the same batches follow as before."""

    def next(self) -> Batch: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Cursor:
    """Walks 0..n-1 in a new order every epoch."""

    def __init__(self, size: int, *, seed: int, name: str) -> None:
        self._size, self._key = size, [seed, zlib.crc32(name.encode())]
        self._epoch = self._place = 0
        self._order = self._shuffled()

    def take(self) -> int:
        if self._place == self._size:
            self._epoch, self._place = self._epoch + 1, 0
            self._order = self._shuffled()
        self._place += 1
        return int(self._order[self._place - 1])

    def state(self) -> list[int]:
        return [self._epoch, self._place]

    def restore(self, state: list[int]) -> None:
        self._epoch, self._place = state
        self._order = self._shuffled()

    def _shuffled(self) -> np.ndarray:
        return np.random.default_rng([*self._key, self._epoch]).permutation(self._size)
