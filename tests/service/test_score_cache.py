"""A cache gives back what was put, and never an error; with a real Redis."""

from __future__ import annotations

import asyncio
import time

import pytest
from conftest import RedisProcess

from service.cache.base import CachedScore, score_key
from service.cache.memory import MemoryCache
from service.cache.redis import Breaker, RedisCache
from service.cache.tiered import TieredCache
from service.metrics import Metrics

SCORE = CachedScore(1.25, 0b101, 77)


def test_values_survive_packing_and_strangers_do_not() -> None:
    assert CachedScore.unpack(SCORE.pack()) == SCORE
    assert len(SCORE.pack()) == 11
    for stranger in (None, b"", b"x" * 11, SCORE.pack() + b"y", "text"):
        assert CachedScore.unpack(stranger) is None


def test_keys_share_a_slot_by_query() -> None:
    assert score_key("f", "fp32/ort-cpu", "q", "i") == "cprm:1:f:fp32/ort-cpu:{q}:i"


def test_memory_keeps_the_most_recently_used() -> None:
    async def scenario() -> None:
        cache = MemoryCache(2, Metrics())
        await cache.put_many({"a": SCORE, "b": SCORE})
        await cache.get_many(["a"])
        await cache.put_many({"c": SCORE})
        assert await cache.get_many(["a", "b", "c"]) == [SCORE, None, SCORE]

    asyncio.run(scenario())


def redis_cache(redis: RedisProcess, metrics: Metrics) -> RedisCache:
    return RedisCache(redis.url, metrics, ttl_s=100, timeout_ms=200)


def test_redis_shares_scores_between_replicas_with_a_jittered_lifetime(redis_process: RedisProcess) -> None:
    async def scenario() -> None:
        first, second = (redis_cache(redis_process, Metrics()) for _ in range(2))
        await first.put_many({f"k{n}": CachedScore(n, 0, 1) for n in range(50)})
        found = await second.get_many(["k7", "nothing", "k8"])
        assert found == [CachedScore(7, 0, 1), None, CachedScore(8, 0, 1)]
        lifetimes = {await first._redis.ttl(f"k{n}") for n in range(50)}
        assert len(lifetimes) > 3
        assert all(89 <= seconds <= 110 for seconds in lifetimes)
        await first.close()
        await second.close()

    asyncio.run(scenario())


def test_redis_that_dies_and_returns_costs_hits_not_errors(redis_process: RedisProcess) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        cache = TieredCache(MemoryCache(0, metrics), redis_cache(redis_process, metrics))
        await cache.put_many({"k": SCORE})
        assert await cache.get_many(["k"]) == [SCORE]
        redis_process.stop()
        for _ in range(8):
            assert await cache.get_many(["k"]) == [None]
            await cache.put_many({"k": SCORE})
        assert metrics.registry.get_sample_value("cprm_cache_breaker_open") == 1
        started = time.monotonic()
        for _ in range(100):
            await cache.get_many(["k"])
        assert time.monotonic() - started < 2  # left alone, not waited for
        redis_process.start()
        await asyncio.sleep(1.1)
        await cache.get_many(["k"])
        await cache.put_many({"k": SCORE})
        assert await cache.get_many(["k"]) == [SCORE]
        assert metrics.registry.get_sample_value("cprm_cache_breaker_open") == 0
        await cache.close()

    asyncio.run(scenario())


def test_a_cancelled_caller_does_not_poison_the_next_one(redis_process: RedisProcess) -> None:
    async def scenario() -> None:
        cache = redis_cache(redis_process, Metrics())
        await cache.put_many({f"k{n}": CachedScore(n, 0, 1) for n in range(20)})
        for n in range(200):
            task = asyncio.create_task(cache.get_many([f"k{n % 20}"]))
            await asyncio.sleep(0 if n % 3 else 0.0003)
            task.cancel()
            (found,) = await cache.get_many([f"k{(n + 1) % 20}"])
            assert found == CachedScore((n + 1) % 20, 0, 1)
        await cache.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("failures", [4, 5])
def test_the_breaker_opens_after_five_failures_and_tries_once_a_second(failures: int) -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(failures):
        breaker.failed()
    assert breaker.open == (failures == 5)
    if breaker.open:
        assert not breaker.allows()
        now[0] = 1.1
        assert breaker.allows()
        assert not breaker.allows()
        breaker.succeeded()
        assert breaker.allows()
