"""Collects pairs of many requests into batches and answers every request exactly once.

Knows no HTTP and no cache. All state is touched from the event loop only; the engine runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import numpy.typing as npt

from model_repo.encoding import EncodedPairs
from service.batching.plan import Waiting, plan_batch
from service.engine import ScoreEngine
from service.errors import NotReadyError, OverloadedError, TooLargeError
from service.metrics import Metrics

_log = logging.getLogger(__name__)
_STALLED_S = 30.0


@dataclass(eq=False, slots=True)
class Job:
    """The pairs of one request. NaN in `logits` is a pair without an answer (yet)."""

    pairs: EncodedPairs
    deadline: float
    priority: int
    logits: npt.NDArray[np.float32]
    settled: asyncio.Future[None]
    submitted: float
    waiting: int
    running: int = 0
    gone: bool = False
    queue_s: float = 0.0
    inference_s: float = 0.0

    def leave(self) -> None:
        """Nobody waits any more: what has not started will not be computed."""
        self.gone = True


@dataclass(eq=False, slots=True)
class _Row:
    job: Job
    row: int
    key: Waiting = field(repr=False)


class Batcher:
    """One queue and one loop for one engine. `start` and `stop` belong to whoever constructed it."""

    def __init__(
        self,
        engine: ScoreEngine,
        metrics: Metrics,
        *,
        model: str,
        max_tokens: int,
        window: int,
        queue_max_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._metrics, self._model = engine, metrics, model
        self._max_tokens, self._window, self._queue_max_tokens = max_tokens, window, queue_max_tokens
        self._clock = clock
        self._rows: list[_Row] = []
        self._queued_tokens = 0
        self._arrivals = count()
        self._wake = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{model}")
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._moved = clock()
        self._tokens_per_s = 0.0

    def start(self) -> None:
        self._task = asyncio.create_task(self._loop(), name=f"batcher-{self._model}")
        self._task.add_done_callback(self._revive)

    async def stop(self) -> None:
        """Finish what is queued, then end the loop and the engine thread."""
        self._stopping = True
        self._wake.set()
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)
        self._pool.shutdown(wait=False)

    @property
    def moving(self) -> bool:
        """False when pairs wait and nothing has been answered for 30 s, or the loop is dead."""
        alive = self._task is not None and not self._task.done()
        return alive and (not self._rows or self._clock() - self._moved < _STALLED_S)

    def submit(self, pairs: EncodedPairs, *, deadline: float, priority: int) -> Job:
        """Queue a request whole. Raises OverloadedError, TooLargeError or NotReadyError and queues nothing.

        `deadline` is a time of the batcher's clock, after which the pairs are not computed any more.
        """
        if self._stopping:
            raise NotReadyError("the service is stopping", retry_after_s=1)
        tokens = int(pairs.offsets[-1])
        if tokens > self._queue_max_tokens:
            raise TooLargeError(
                f"the request has {tokens} tokens, the queue holds {self._queue_max_tokens}; send fewer items"
            )
        if self._queued_tokens + tokens > self._queue_max_tokens:
            raise OverloadedError(
                f"{self._queued_tokens} tokens wait already", retry_after_s=self._retry_after_s()
            )
        logits = np.full(len(pairs), np.nan, dtype=np.float32)
        now = self._clock()
        settled = asyncio.get_running_loop().create_future()
        job = Job(pairs, deadline, priority, logits, settled, now, waiting=len(pairs))
        for row, length in enumerate(pairs.lengths.tolist()):
            key = Waiting(length, priority, deadline, next(self._arrivals))
            self._rows.append(_Row(job, row, key))
        if not self._rows[: -len(pairs)]:
            self._moved = now  # an idle queue is not a stalled one
        self._count(tokens)
        self._wake.set()
        return job

    def _retry_after_s(self) -> int:
        """Time to work off the backlog at the measured rate, in whole seconds, 1 to 30."""
        seconds = self._queued_tokens / self._tokens_per_s if self._tokens_per_s else 1.0
        return min(30, max(1, math.ceil(seconds)))

    def _count(self, tokens: int) -> None:
        self._queued_tokens += tokens
        self._metrics.queue_tokens.labels(self._model).set(self._queued_tokens)

    async def _loop(self) -> None:
        while True:
            if not self._rows:
                if self._stopping:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._take()
            if batch:
                await self._answer(batch)

    def _revive(self, task: asyncio.Task[None]) -> None:
        """The loop must not die; if it does, say so and start it again."""
        if task.cancelled() or task.exception() is None:
            return
        _log.error("batch loop died", exc_info=task.exception())
        self._metrics.loop_restarts.labels(self._model).inc()
        self.start()

    def _take(self) -> list[_Row]:
        """Remove the next batch from the queue, after those for whom nobody waits."""
        now = self._clock()
        late = [row for row in self._rows if row.job.gone or row.key.deadline <= now]
        if late:
            self._metrics.dropped.labels(self._model).inc(len(late))
            self._rows = [row for row in self._rows if not row.job.gone and row.key.deadline > now]
            self._count(-sum(row.key.length for row in late))
            for row in late:
                row.job.waiting -= 1
                _settle(row.job)
        chosen = plan_batch([row.key for row in self._rows], max_tokens=self._max_tokens, window=self._window)
        batch = [self._rows[index] for index in chosen]
        taken = set(chosen)
        self._rows = [row for index, row in enumerate(self._rows) if index not in taken]
        self._count(-sum(row.key.length for row in batch))
        for row in batch:
            if not row.job.running and not row.job.inference_s:
                row.job.queue_s = now - row.job.submitted
            row.job.waiting -= 1
            row.job.running += 1
        return batch

    async def _answer(self, batch: list[_Row]) -> None:
        """Run a batch and hand out its logits; whatever happens, every row is given back."""
        started = self._clock()
        try:
            await self._run(batch)
        except Exception:
            self._metrics.engine_errors.labels(self._model).inc()
            _log.exception("engine failed on a batch of %d pairs", len(batch))
            await self._run_singly(batch)
        finally:
            elapsed = self._clock() - started
            self._moved = self._clock()
            tokens = sum(row.key.length for row in batch)
            rate = tokens / max(elapsed, 1e-6)
            self._tokens_per_s = rate if not self._tokens_per_s else 0.8 * self._tokens_per_s + 0.2 * rate
            for job in {row.job for row in batch}:
                job.inference_s += elapsed
            for row in batch:
                row.job.running -= 1
                _settle(row.job)

    async def _run_singly(self, batch: list[_Row]) -> None:
        """One bad pair must not fail its neighbours; those that fail alone stay NaN."""
        if len(batch) == 1:
            return
        for row in batch:
            try:
                await self._run([row])
            except Exception:
                self._metrics.engine_errors.labels(self._model).inc()

    async def _run(self, batch: list[_Row]) -> None:
        pairs = EncodedPairs.concat([row.job.pairs.take([row.row]) for row in batch])
        logits = await asyncio.get_running_loop().run_in_executor(self._pool, self._engine.logits, pairs)
        if logits.shape != (len(batch),):
            raise RuntimeError(f"the engine answered {logits.shape} for {len(batch)} pairs")
        real = int(pairs.offsets[-1])
        self._metrics.tokens.labels("real").inc(real)
        self._metrics.tokens.labels("padded").inc(int(pairs.lengths.max()) * len(batch) - real)
        self._metrics.batch_pairs.observe(len(batch))
        for row, logit in zip(batch, logits, strict=True):
            row.job.logits[row.row] = logit


def _settle(job: Job) -> None:
    if not job.waiting and not job.running and not job.settled.done():
        job.settled.set_result(None)
