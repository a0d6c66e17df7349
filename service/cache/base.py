"""The cache's seam and its value format."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

_FORMAT = 1
_LAYOUT = struct.Struct("<BfIH")  # format byte, logit, truncation bits, token count


class CachedScore(NamedTuple):
    """What is kept of a scored pair: raw, so that calibration needs no flush."""

    logit: float
    truncated: int
    tokens: int

    def pack(self) -> bytes:
        return _LAYOUT.pack(_FORMAT, self.logit, self.truncated, min(self.tokens, 0xFFFF))

    @staticmethod
    def unpack(value: object) -> CachedScore | None:
        """None for nothing, another format, or anything that is not a score."""
        if not isinstance(value, bytes) or len(value) != _LAYOUT.size or value[0] != _FORMAT:
            return None
        _, logit, truncated, tokens = _LAYOUT.unpack(value)
        return CachedScore(logit, truncated, tokens)


class ScoreCache(Protocol):
    """Neither method raises: what fails is a miss, or is not kept."""

    async def get_many(self, keys: Sequence[str]) -> list[CachedScore | None]: ...

    async def put_many(self, scores: Mapping[str, CachedScore]) -> None: ...

    async def close(self) -> None: ...


def score_key(fingerprint: str, numerics: str, query_hash: str, item_hash: str) -> str:
    """The query hash is a Redis Cluster hash tag: one slot holds all pairs of a query."""
    return f"cprm:1:{fingerprint}:{numerics}:{{{query_hash}}}:{item_hash}"
