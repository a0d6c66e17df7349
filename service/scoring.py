"""The path of a request: key, cache, encode the misses, batch, infer, calibrate. Knows no HTTP."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from model_repo.encoding import EncodedPairs
from model_repo.keys import item_key, query_key
from model_repo.text import FieldValue, canonical_text
from service.batching.batcher import Job
from service.cache.base import CachedScore, ScoreCache, score_key
from service.errors import DeadlineError, InvalidError, NotReadyError
from service.lexical import lexical_score
from service.metrics import Metrics
from service.models import LoadedModel

Fields = Mapping[str, FieldValue]
Fallback = Literal["cached", "lexical", "none"]
MAX_EXPLAINED_ITEMS = 20
IDLE_PRIORITY = -1000


@dataclass(frozen=True, slots=True)
class Query:
    """What is to be scored, after validation. `deadline` is a time of `time.monotonic`."""

    text: str
    items: Sequence[Fields]
    deadline: float
    priority: int = 0
    use_cache: bool = True
    allow_partial: bool = True
    fallback: Fallback = "none"
    explain: bool = False


@dataclass(slots=True)
class Result:
    """One item's outcome. `relevance` is there exactly when `status` is scored."""

    status: Literal["scored", "deadline", "empty", "error"]
    relevance: float | None = None
    grade: str | None = None
    cached: bool = False
    truncated: list[str] = field(default_factory=list)
    tokens: int | None = None
    fallback: tuple[str, float | None] | None = None
    explanation: list[tuple[str, float]] | None = None


@dataclass(slots=True)
class Timings:
    """Milliseconds by stage."""

    cache: float = 0.0
    tokenize: float = 0.0
    queue: float = 0.0
    inference: float = 0.0


class Scorer:
    """Scores queries with any loaded model; holds the cache, owns neither models nor cache."""

    def __init__(self, cache: ScoreCache, metrics: Metrics) -> None:
        self._cache, self._metrics = cache, metrics
        self._late: set[asyncio.Task[None]] = set()

    async def score(self, model: LoadedModel, query: Query) -> tuple[list[Result], Timings]:
        """Results in the order of the items.

        Raises InvalidError for too many items to explain, OverloadedError and TooLargeError when the misses find
        no place, DeadlineError when no partial answer is allowed, NotReadyError when the engine fails on everything.
        """
        if query.explain and len(query.items) > MAX_EXPLAINED_ITEMS:
            raise InvalidError(f"takes at most {MAX_EXPLAINED_ITEMS} items", field="explain")
        timings = Timings()
        names = model.bundle.manifest.spec.field_names
        empty = [not any(canonical_text(item.get(name, "")) for name in names) for item in query.items]
        keys = self._keys(model, query)
        wanted = dict.fromkeys(key for key, blank in zip(keys, empty, strict=True) if not blank)
        known = await self._look_up(list(wanted), query, timings)
        cached = frozenset(known)
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        missing = [key for key in wanted if key not in known]
        if missing:
            known |= await self._infer(
                model, query, missing, [query.items[first[key]] for key in missing], timings
            )
        results = self._results(model, query, keys, empty, known, cached)
        self._observe(model, results)
        if query.explain:
            await self._explain(model, query, results)
        return results, timings

    def _keys(self, model: LoadedModel, query: Query) -> list[str]:
        spec = model.bundle.manifest.spec
        prefix = (model.bundle.fingerprint, model.engine.numerics, query_key(query.text))
        return [score_key(*prefix, item_key(spec, item)) for item in query.items]

    async def _look_up(self, keys: list[str], query: Query, timings: Timings) -> dict[str, CachedScore]:
        if not query.use_cache or not keys:
            return {}
        started = time.monotonic()
        found = await self._cache.get_many(keys)
        timings.cache = _since(started)
        return {key: score for key, score in zip(keys, found, strict=True) if score is not None}

    async def _infer(
        self, model: LoadedModel, query: Query, keys: list[str], items: list[Fields], timings: Timings
    ) -> dict[str, CachedScore]:
        """Scores of the pairs that were ready by the deadline; later ones are only cached."""
        started = time.monotonic()
        pairs = await asyncio.to_thread(model.bundle.encoder.encode, query.text, items)
        timings.tokenize = _since(started)
        job = model.batcher.submit(pairs, deadline=query.deadline, priority=query.priority)
        try:
            await asyncio.wait_for(asyncio.shield(job.settled), max(0.0, query.deadline - time.monotonic()))
        except TimeoutError:
            pass  # what is there by now is answered
        finally:
            job.leave()
            if not job.settled.done() and query.use_cache:
                self._keep_late(job, keys)
        timings.queue, timings.inference = job.queue_s * 1e3, job.inference_s * 1e3
        scores = _scores(keys, job)
        if query.use_cache:
            await self._cache.put_many(scores)
        unscored = len(keys) - len(scores)
        if unscored and time.monotonic() >= query.deadline:
            if not query.allow_partial:
                raise DeadlineError(f"the deadline passed before {unscored} of {len(keys)} items were scored")
        elif unscored and (not scores or not query.allow_partial):
            raise NotReadyError(f"the engine failed on {unscored} of {len(keys)} items", retry_after_s=1)
        return scores

    def _keep_late(self, job: Job, keys: list[str]) -> None:
        """A running batch is not cancelled; what it brings is cached for the next caller."""

        async def keep() -> None:
            await job.settled
            await self._cache.put_many(_scores(keys, job))

        task = asyncio.create_task(keep())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def _results(
        self,
        model: LoadedModel,
        query: Query,
        keys: list[str],
        empty: list[bool],
        known: Mapping[str, CachedScore],
        cached: frozenset[str],
    ) -> list[Result]:
        calibration = model.bundle.calibration
        results = []
        for key, blank, item in zip(keys, empty, query.items, strict=True):
            score = known.get(key)
            if blank:
                results.append(Result("empty"))
            elif score is None:
                late = time.monotonic() >= query.deadline
                results.append(Result("deadline" if late else "error", fallback=_fallback(query, item)))
            else:
                relevance = calibration.relevance(np.array([score.logit]))
                results.append(
                    Result(
                        "scored",
                        relevance=float(relevance[0]),
                        grade=calibration.grades(relevance)[0],
                        cached=key in cached,
                        truncated=model.bundle.encoder.truncated_names(score.truncated),
                        tokens=score.tokens,
                    )
                )
        return results

    def _observe(self, model: LoadedModel, results: Sequence[Result]) -> None:
        for result in results:
            self._metrics.pairs.labels(model.bundle.name, "cached" if result.cached else result.status).inc()
            for part in result.truncated:
                self._metrics.truncations.labels(model.bundle.name, part).inc()

    async def _explain(self, model: LoadedModel, query: Query, results: Sequence[Result]) -> None:
        """Change of the logit when a field is left out; positive means that the field spoke for the item."""
        for item, result in zip(query.items, results, strict=True):
            names = [n for n in model.bundle.manifest.spec.field_names if canonical_text(item.get(n, ""))]
            if result.status != "scored":
                continue
            variants = [item, *({k: v for k, v in item.items() if k != left_out} for left_out in names)]
            pairs = await asyncio.to_thread(model.bundle.encoder.encode, query.text, variants)
            logits = await self._idle_logits(model, pairs, query.deadline)
            if logits is not None:
                deltas = (logits[0] - logits[1:]).tolist()
                result.explanation = list(zip(names, deltas, strict=True))

    @staticmethod
    async def _idle_logits(
        model: LoadedModel, pairs: EncodedPairs, deadline: float
    ) -> npt.NDArray[np.float32] | None:
        job = model.batcher.submit(pairs, deadline=deadline, priority=IDLE_PRIORITY)
        try:
            await asyncio.wait_for(asyncio.shield(job.settled), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            return None
        finally:
            job.leave()
        return None if np.isnan(job.logits).any() else job.logits


def _scores(keys: list[str], job: Job) -> dict[str, CachedScore]:
    rows = zip(
        keys, job.logits.tolist(), job.pairs.truncated.tolist(), job.pairs.lengths.tolist(), strict=True
    )
    return {key: CachedScore(logit, cut, length) for key, logit, cut, length in rows if not math.isnan(logit)}


def _fallback(query: Query, item: Fields) -> tuple[str, float | None] | None:
    """`cached` needs another loaded version of the model; with one version there is nothing to take."""
    if query.fallback == "lexical":
        return "lexical", lexical_score(query.text, item)
    return "none", None


def _since(started: float) -> float:
    return (time.monotonic() - started) * 1e3
