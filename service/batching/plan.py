"""Which waiting pairs form the next batch: a pure function over lengths and urgencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Waiting(NamedTuple):
    """One waiting pair. Higher `priority` goes first, then the earlier deadline, then the earlier arrival."""

    length: int
    priority: int
    deadline: float
    arrival: int


def plan_batch(waiting: Sequence[Waiting], *, max_tokens: int, window: int) -> list[int]:
    """Return the indices of the next batch, most urgent pair first; empty only for an empty queue.

    The most urgent pair is always taken, so a pair longer than the budget cannot block the queue. It is joined
    by those of the `window` most urgent whose lengths are nearest to its own, while longest x rows fits.
    """
    if not waiting:
        return []
    urgent = sorted(range(len(waiting)), key=lambda i: (-waiting[i].priority, *waiting[i][2:]))[:window]
    head = urgent[0]
    longest = waiting[head].length
    batch = [head]
    # The sort is stable: among equal distances the more urgent goes first.
    for index in sorted(urgent[1:], key=lambda i: abs(waiting[i].length - waiting[head].length)):
        grown = max(longest, waiting[index].length)
        if grown * (len(batch) + 1) <= max_tokens:
            longest = grown
            batch.append(index)
    return batch
