"""Least-recently-used scores in this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from service.cache.base import CachedScore
from service.metrics import Metrics


class MemoryCache:
    """At most `entries` scores; 0 keeps none."""

    def __init__(self, entries: int, metrics: Metrics) -> None:
        self._entries = entries
        self._scores: OrderedDict[str, CachedScore] = OrderedDict()
        self._hits = metrics.cache_lookups.labels("memory", "hit")
        self._misses = metrics.cache_lookups.labels("memory", "miss")

    async def get_many(self, keys: Sequence[str]) -> list[CachedScore | None]:
        found = [self._scores.get(key) for key in keys]
        hits = 0
        for key, score in zip(keys, found, strict=True):
            if score is not None:
                self._scores.move_to_end(key)
                hits += 1
        self._hits.inc(hits)
        self._misses.inc(len(keys) - hits)
        return found

    async def put_many(self, scores: Mapping[str, CachedScore]) -> None:
        for key, score in scores.items():
            self._scores[key] = score
            self._scores.move_to_end(key)
        while len(self._scores) > self._entries:
            self._scores.popitem(last=False)

    async def close(self) -> None:
        self._scores.clear()
