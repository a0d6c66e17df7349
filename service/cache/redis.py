"""Scores shared through Redis. Redis that is down or slow costs hits, never answers."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.cache.base import CachedScore
from service.metrics import Metrics

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_FAILURES_TO_OPEN = 5
_OPEN_S = 1.0
_CONNECTIONS = 64


class Breaker:
    """Opens after some failures in a row; then one call a second tries whether Redis is back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._retry_at = 0.0

    @property
    def open(self) -> bool:
        return self._failures >= _FAILURES_TO_OPEN

    def allows(self) -> bool:
        if not self.open:
            return True
        if self._clock() < self._retry_at:
            return False
        self._retry_at = self._clock() + _OPEN_S
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._retry_at = self._clock() + _OPEN_S


class RedisCache:
    """MGET and pipelined SET with a jittered TTL.

    Commands run in tasks of their own that a leaving caller cannot cancel: a connection abandoned between command
    and reply would give the reply to the next caller. Time-outs are the socket's, which close the connection.
    """

    def __init__(self, url: str, metrics: Metrics, *, ttl_s: int, timeout_ms: float) -> None:
        timeout = timeout_ms / 1000
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = Redis(connection_pool=pool)
        self._ttl_s = ttl_s
        self._breaker = Breaker()
        self._metrics = metrics
        self._hits = metrics.cache_lookups.labels("redis", "hit")
        self._misses = metrics.cache_lookups.labels("redis", "miss")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def get_many(self, keys: Sequence[str]) -> list[CachedScore | None]:
        async def read() -> list[CachedScore | None]:
            return [CachedScore.unpack(value) for value in await self._redis.mget(keys)]

        found = (await self._guarded(read) if keys else None) or [None for _ in keys]
        hits = sum(score is not None for score in found)
        self._hits.inc(hits)
        self._misses.inc(len(keys) - hits)
        return found

    async def put_many(self, scores: Mapping[str, CachedScore]) -> None:
        async def write() -> None:
            pipeline = self._redis.pipeline(transaction=False)
            for key, score in scores.items():
                # Jitter: scores written together must not expire together.
                pipeline.set(key, score.pack(), ex=max(1, round(self._ttl_s * random.uniform(0.9, 1.1))))
            await pipeline.execute()

        if scores:
            await self._guarded(write)

    async def close(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        await self._redis.aclose()

    async def _guarded(self, call: Callable[[], Coroutine[None, None, _T]]) -> _T | None:
        """The call's result, or None when Redis is being left alone or fails."""
        if not self._breaker.allows():
            return None
        task = asyncio.create_task(self._attempt(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _attempt(self, call: Callable[[], Coroutine[None, None, _T]]) -> _T | None:
        try:
            result = await call()
        except (RedisError, OSError, TimeoutError) as error:
            self._metrics.cache_errors.labels("redis").inc()
            was_open = self._breaker.open
            self._breaker.failed()
            if self._breaker.open and not was_open:
                _log.warning("redis is left alone after repeated failures: %s", type(error).__name__)
            result = None
        else:
            if self._breaker.open:
                _log.warning("redis is back")
            self._breaker.succeeded()
        self._metrics.breaker_open.set(self._breaker.open)
        return result
