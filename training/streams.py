"""Endless batch streams that can be put back to any point: what they yield follows from a few integers.

Randomness is drawn from generators seeded by (seed, step) and (seed, name, epoch), never carried along, so the
state of a stream is its step and the place of each corpus.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

_POOL = 32


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


class Packer:
    """Walks rows in batches of like length, so that almost none of a batch is padding.

    Rows are drawn as a `Cursor` draws them, `_POOL` batches' worth at a time; a pool is sorted by length, cut
    where a padded batch would pass the budget, and its batches come in a new order. Short rows are not joined
    into longer ones: each document keeps its own positions and attention, and nothing has to be masked.
    """

    def __init__(
        self, lengths: Sequence[int], *, tokens: int, seed: int, name: str, at_least: int = 1
    ) -> None:
        """`tokens`: the padded size of a batch, passed only to reach `at_least` rows."""
        self._lengths, self._tokens, self._at_least = lengths, tokens, at_least
        self._cursor = Cursor(len(lengths), seed=seed, name=name)
        self._key = [seed, zlib.crc32(name.encode())]
        per_batch = max(at_least, round(tokens * len(lengths) / max(1, sum(lengths))))
        self._pool = min(len(lengths), _POOL * per_batch)
        self._fill()

    def take(self) -> list[int]:
        """Numbers of the rows of the next batch."""
        if self._taken == len(self._batches):
            self._fill()
        self._taken += 1
        return self._batches[self._taken - 1]

    def state(self) -> list[int]:
        return [*self._from, self._taken]

    def restore(self, state: list[int]) -> None:
        *start, taken = state
        self._cursor.restore(start)
        self._fill()
        self._taken = taken

    def _fill(self) -> None:
        self._from = self._cursor.state()
        self._taken = 0
        rows = sorted((self._cursor.take() for _ in range(self._pool)), key=lambda row: self._lengths[row])
        batches: list[list[int]] = [[]]
        for row in rows:
            full = self._lengths[row] * (len(batches[-1]) + 1) > self._tokens
            if full and len(batches[-1]) >= self._at_least:
                batches.append([])
            batches[-1].append(row)
        if len(batches) > 1 and len(batches[-1]) < self._at_least:
            rest = batches.pop()
            batches[-1] += rest
        order = np.random.default_rng([*self._key, *self._from]).permutation(len(batches))
        self._batches = [batches[int(place)] for place in order]
