"""The process's own cache in front of the shared one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.cache.base import CachedScore, ScoreCache


class TieredCache:
    """Asks `far` only for what `near` lacks, and keeps what it finds there."""

    def __init__(self, near: ScoreCache, far: ScoreCache) -> None:
        self._near, self._far = near, far

    async def get_many(self, keys: Sequence[str]) -> list[CachedScore | None]:
        found = await self._near.get_many(keys)
        missing = [index for index, score in enumerate(found) if score is None]
        if missing:
            fetched = await self._far.get_many([keys[index] for index in missing])
            for index, score in zip(missing, fetched, strict=True):
                found[index] = score
            await self._near.put_many(
                {
                    keys[index]: score
                    for index, score in zip(missing, fetched, strict=True)
                    if score is not None
                }
            )
        return found

    async def put_many(self, scores: Mapping[str, CachedScore]) -> None:
        await self._near.put_many(scores)
        await self._far.put_many(scores)

    async def close(self) -> None:
        await self._near.close()
        await self._far.close()
