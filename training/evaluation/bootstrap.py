"""95% intervals by bootstrap over queries: whole queries are drawn, because their pairs hang together.

A resample is a vector of query weights (how often each was drawn), so every metric is a weighted one and
nothing is sorted twice: one AUC sort serves all resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.pairs import LabelledPair
from training.evaluation.metrics import Scores, ndcg_at_10, query_index

RESAMPLES = 1000
Weights = npt.NDArray[np.float64]
Metric = Callable[[Weights], float]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95% percentile interval; None where it is undefined (one class only)."""

    value: float | None
    low: float | None
    high: float | None


def bootstrap(
    pairs: Sequence[LabelledPair],
    scores: Scores,
    *,
    relevant_from: int,
    threshold: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of auc, f1, accuracy (all in 0..100) and ndcg10 (0..1)."""
    metrics = _metrics(pairs, scores, relevant_from, threshold)
    draws = _draws(pairs, resamples, seed)
    return {name: _interval(metric, draws) for name, metric in metrics.items()}


def paired_difference(
    pairs: Sequence[LabelledPair],
    scores_a: Scores,
    scores_b: Scores,
    *,
    relevant_from: int,
    threshold_a: float,
    threshold_b: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of metric(a) - metric(b), both on the same resampled queries."""
    first = _metrics(pairs, scores_a, relevant_from, threshold_a)
    second = _metrics(pairs, scores_b, relevant_from, threshold_b)
    draws = _draws(pairs, resamples, seed)

    def difference(name: str) -> Metric:
        return lambda weights: first[name](weights) - second[name](weights)

    return {name: _interval(difference(name), draws) for name in first}


def _draws(pairs: Sequence[LabelledPair], resamples: int, seed: int) -> Weights:
    """Query weights [resamples + 1, queries]; row 0 counts every query once."""
    count = len({pair.query for pair in pairs})
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.vstack([np.ones(count), drawn]).astype(np.float64)


def _interval(metric: Metric, draws: Weights) -> Interval:
    values = np.array([metric(weights) for weights in draws])
    if np.isnan(values[0]):
        return Interval(None, None, None)
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))


def _metrics(
    pairs: Sequence[LabelledPair], scores: Scores, relevant_from: int, threshold: float
) -> dict[str, Metric]:
    scores = np.asarray(scores)
    query = query_index(pairs)
    relevant = np.array([pair.label >= relevant_from for pair in pairs])
    return {
        "auc": _auc(query, relevant, scores),
        **_thresholded(query, relevant, scores >= threshold),
        "ndcg10": _ndcg(pairs, scores),
    }


def _auc(query: npt.NDArray[np.int64], relevant: npt.NDArray[np.bool_], scores: Scores) -> Metric:
    """Weighted Mann-Whitney statistic; pairs of equal score count one half."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    query, relevant = query[order], relevant[order]

    def metric(weights: Weights) -> float:
        row = weights[query]
        positive = np.add.reduceat(row * relevant, starts)
        negative = np.add.reduceat(row * ~relevant, starts)
        total = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative
        return float(100 * (positive * (below + 0.5 * negative)).sum() / total) if total else float("nan")

    return metric


def _thresholded(
    query: npt.NDArray[np.int64], relevant: npt.NDArray[np.bool_], called: npt.NDArray[np.bool_]
) -> dict[str, Metric]:
    count = int(query.max(initial=-1)) + 1

    def per_query(chosen: npt.NDArray[np.bool_]) -> Weights:
        return np.bincount(query, weights=chosen, minlength=count).astype(np.float64)

    hits, calls, positives = per_query(relevant & called), per_query(called), per_query(relevant)
    right, pairs = per_query(relevant == called), per_query(np.ones_like(called))

    def f1(weights: Weights) -> float:
        denominator = weights @ calls + weights @ positives
        return float(200 * (weights @ hits) / denominator) if denominator else float("nan")

    return {"f1": f1, "accuracy": lambda weights: float(100 * (weights @ right) / (weights @ pairs))}


def _ndcg(pairs: Sequence[LabelledPair], scores: Scores) -> Metric:
    values = ndcg_at_10(pairs, scores)

    def metric(weights: Weights) -> float:
        used = weights[values.query]
        return float((used * values.value).sum() / used.sum()) if used.sum() else float("nan")

    return metric
