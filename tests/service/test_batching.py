"""The planner's properties, and every way in which a batch can go wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repo.encoding import EncodedPairs
from service.batching.batcher import Batcher, Job
from service.batching.plan import Waiting, plan_batch
from service.errors import NotReadyError, OverloadedError, TooLargeError
from service.metrics import Metrics

WAITING = st.lists(
    st.builds(Waiting, st.integers(1, 300), st.integers(-2, 2), st.floats(0, 100), st.integers(0, 10_000)),
    max_size=60,
)


@given(WAITING, st.integers(1, 2000), st.integers(1, 40))
def test_a_plan_is_a_set_of_waiting_pairs_within_the_budget(
    waiting: list[Waiting], budget: int, window: int
) -> None:
    batch = plan_batch(waiting, max_tokens=budget, window=window)
    assert len(set(batch)) == len(batch) <= window
    assert bool(batch) == bool(waiting)
    if len(batch) > 1:
        assert max(waiting[i].length for i in batch) * len(batch) <= budget


@given(WAITING.filter(bool), st.integers(1, 2000))
def test_the_most_urgent_pair_is_always_taken(waiting: list[Waiting], budget: int) -> None:
    head = plan_batch(waiting, max_tokens=budget, window=8)[0]
    assert all((-waiting[head].priority, *waiting[head][2:]) <= (-w.priority, *w[2:]) for w in waiting)


def test_pairs_of_like_length_go_together() -> None:
    waiting = [Waiting(length, 0, 1.0, n) for n, length in enumerate([10, 100, 11, 90, 12])]
    assert plan_batch(waiting, max_tokens=40, window=5) == [0, 2, 4]


def pairs_of(*lengths: int) -> EncodedPairs:
    """Each pair's tokens all equal its length, so a logit can be told from its pair."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.concatenate([np.full(n, n) for n in lengths]).astype(np.int32)
    return EncodedPairs(ids, np.zeros(len(ids), np.uint8), offsets, np.zeros(len(lengths), np.uint32))


class FakeEngine:
    """The logit of a pair is its length; faults come from `before`."""

    numerics = "fake"

    def __init__(self, before: Callable[[EncodedPairs], None] = lambda pairs: None) -> None:
        self.before, self.batches = before, list[list[int]]()

    def logits(self, pairs: EncodedPairs) -> npt.NDArray[np.float32]:
        self.batches.append(pairs.lengths.tolist())
        self.before(pairs)
        return pairs.lengths.astype(np.float32)


def run(
    engine: FakeEngine, scenario: Callable[[Batcher], Coroutine[None, None, None]], **limits: int
) -> Metrics:
    metrics = Metrics()

    async def main() -> None:
        sizes = {"max_tokens": 64, "window": 32, "queue_max_tokens": 1000} | limits
        batcher = Batcher(engine, metrics, model="m", **sizes)
        batcher.start()
        await asyncio.wait_for(scenario(batcher), 10)
        await asyncio.wait_for(batcher.stop(), 10)

    asyncio.run(main())
    return metrics


def submit(batcher: Batcher, *lengths: int, within: float = 10.0, priority: int = 0) -> Job:
    return batcher.submit(pairs_of(*lengths), deadline=time.monotonic() + within, priority=priority)


def test_every_caller_gets_the_logits_of_its_own_pairs() -> None:
    async def scenario(batcher: Batcher) -> None:
        jobs = [submit(batcher, *lengths) for lengths in ([3, 9, 4], [5], [8, 2], [100])]
        await asyncio.gather(*(job.settled for job in jobs))
        for job in jobs:
            assert job.logits.tolist() == job.pairs.lengths.tolist()

    engine = FakeEngine()
    run(engine, scenario)
    assert [100] in engine.batches  # over the budget, alone, not stuck
    assert all(max(batch) * len(batch) <= 64 for batch in engine.batches if len(batch) > 1)


def test_one_poisonous_pair_does_not_fail_its_neighbours() -> None:
    def poison(pairs: EncodedPairs) -> None:
        if 7 in pairs.lengths:
            raise RuntimeError("poison")

    async def scenario(batcher: Batcher) -> None:
        good, bad = submit(batcher, 3, 4), submit(batcher, 5, 7)
        await asyncio.gather(good.settled, bad.settled)
        assert good.logits.tolist() == [3, 4]
        assert bad.logits[0] == 5
        assert np.isnan(bad.logits[1])
        later = submit(batcher, 6)
        await later.settled
        assert later.logits.tolist() == [6]

    run(FakeEngine(poison), scenario)


def test_an_engine_that_always_raises_answers_everyone() -> None:
    def fail(pairs: EncodedPairs) -> None:
        raise RuntimeError("broken")

    async def scenario(batcher: Batcher) -> None:
        jobs = [submit(batcher, 3, 4) for _ in range(5)]
        await asyncio.gather(*(job.settled for job in jobs))
        assert all(np.isnan(job.logits).all() for job in jobs)
        assert batcher.moving

    metrics = run(FakeEngine(fail), scenario)
    assert metrics.registry.get_sample_value("cprm_engine_errors_total", {"model": "m"}) >= 5


def test_an_engine_that_answers_too_few_is_an_error_not_a_shift() -> None:
    class Short(FakeEngine):
        def logits(self, pairs: EncodedPairs) -> npt.NDArray[np.float32]:
            return super().logits(pairs)[: max(1, len(pairs) - 1)]

    async def scenario(batcher: Batcher) -> None:
        job = submit(batcher, 3, 4, 5)
        await job.settled
        assert job.logits.tolist() == [3, 4, 5]  # one by one

    run(Short(), scenario)


def test_pairs_nobody_waits_for_are_not_computed_and_counted() -> None:
    release = threading.Event()

    async def scenario(batcher: Batcher) -> None:
        busy = submit(batcher, 50)
        await asyncio.sleep(0.05)
        left, late, stays = submit(batcher, 11), submit(batcher, 12, within=0.01), submit(batcher, 13)
        left.leave()
        await asyncio.sleep(0.05)
        release.set()
        await asyncio.gather(*(job.settled for job in (busy, left, late, stays)))
        assert stays.logits.tolist() == [13]
        assert np.isnan(left.logits).all()
        assert np.isnan(late.logits).all()

    engine = FakeEngine(lambda pairs: release.wait(5) and None)
    metrics = run(engine, scenario)
    assert engine.batches == [[50], [13]]
    assert metrics.registry.get_sample_value("cprm_dropped_pairs_total", {"model": "m"}) == 2


def test_a_request_is_admitted_whole_or_not_at_all() -> None:
    release = threading.Event()

    async def scenario(batcher: Batcher) -> None:
        busy = submit(batcher, 10)
        await asyncio.sleep(0.05)
        waits = submit(batcher, 40, 40)
        with pytest.raises(OverloadedError) as error:
            submit(batcher, 15, 15)
        assert 1 <= (error.value.retry_after_s or 0) <= 30
        fits = submit(batcher, 20)
        with pytest.raises(TooLargeError):
            submit(batcher, 101)
        release.set()
        await asyncio.gather(busy.settled, waits.settled, fits.settled)
        assert fits.logits.tolist() == [20]

    run(FakeEngine(lambda pairs: release.wait(5) and None), scenario, queue_max_tokens=100)


def test_higher_priority_and_earlier_deadline_go_first() -> None:
    release = threading.Event()

    async def scenario(batcher: Batcher) -> None:
        jobs = [submit(batcher, 60)]
        await asyncio.sleep(0.05)
        jobs += [
            submit(batcher, 41, within=9),
            submit(batcher, 42, within=5),
            submit(batcher, 43, priority=1),
        ]
        release.set()
        await asyncio.gather(*(job.settled for job in jobs))

    engine = FakeEngine(lambda pairs: release.wait(5) and None)
    run(engine, scenario)
    assert engine.batches == [[60], [43], [42], [41]]


def test_stopping_finishes_what_is_queued_and_takes_nothing_new() -> None:
    async def scenario(batcher: Batcher) -> None:
        jobs = [submit(batcher, 60), submit(batcher, 50)]
        await batcher.stop()
        assert all(job.settled.done() and not np.isnan(job.logits).any() for job in jobs)
        with pytest.raises(NotReadyError):
            submit(batcher, 3)

    run(FakeEngine(lambda pairs: time.sleep(0.05)), scenario)


def test_a_dead_loop_is_revived_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Batcher._take, list[int]()

    def once(self: Batcher) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("bug in the planner")
        return original(self)

    monkeypatch.setattr(Batcher, "_take", once)

    async def scenario(batcher: Batcher) -> None:
        job = submit(batcher, 3)
        await job.settled
        assert job.logits.tolist() == [3]

    metrics = run(FakeEngine(), scenario)
    assert metrics.registry.get_sample_value("cprm_batch_loop_restarts_total", {"model": "m"}) == 1
