"""Metrics as functions of query weights, so that a resample costs a weighted sum and nothing is sorted twice.

Weights are [queries, draws]: how often each draw holds each query. A metric answers [draws], NaN where it is
undefined (one class only, no query with gain).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.dataset import LabelScale
from training.data.pairs import LabelledPair
from training.evaluation.metrics import QueryValues, Scores, ndcg_at_10, query_index, reciprocal_ranks

Weights = npt.NDArray[np.float64]
Values = npt.NDArray[np.float64]
Metric = Callable[[Weights], Values]
_Flags = npt.NDArray[np.bool_]
_Queries = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Run:
    """Test scores of one trained model (one seed), and the score from which on it calls a pair relevant."""

    scores: Scores
    threshold: float


def weighted_metrics(pairs: Sequence[LabelledPair], run: Run, *, scale: LabelScale) -> dict[str, Metric]:
    """auc, f1, accuracy (in 0..100), ndcg10 and mrr (0..1)."""
    scores = np.asarray(run.scores)
    query = query_index(pairs)
    relevant = np.array([pair.label >= scale.relevant_from for pair in pairs], dtype=bool)
    return {
        "auc": _auc(query, relevant, scores),
        **_thresholded(query, relevant, scores >= run.threshold),
        "ndcg10": _mean(ndcg_at_10(pairs, scores, lowest=scale.scale[0])),
        "mrr": _mean(reciprocal_ranks(pairs, scores, relevant_from=scale.relevant_from)),
    }


def _auc(query: _Queries, relevant: _Flags, scores: Scores) -> Metric:
    """Weighted Mann-Whitney statistic; pairs of equal score count one half."""
    negatives = np.flatnonzero(~relevant)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    below = np.searchsorted(scores[negatives], scores[relevant], side="left")
    up_to = np.searchsorted(scores[negatives], scores[relevant], side="right")
    positive_query, negative_query = query[relevant], query[negatives]

    def metric(weights: Weights) -> Values:
        negative = np.zeros((len(negative_query) + 1, weights.shape[1]))
        np.cumsum(weights[negative_query], axis=0, out=negative[1:])
        positive = weights[positive_query]
        won = np.einsum("pd,pd->d", positive, negative[below] + negative[up_to])
        return 50 * _ratio(won, positive.sum(axis=0) * negative[-1])

    return metric


def _thresholded(query: _Queries, relevant: _Flags, called: _Flags) -> dict[str, Metric]:
    count = int(query.max(initial=-1)) + 1

    def per_query(chosen: _Flags) -> Values:
        return np.bincount(query, weights=chosen, minlength=count).astype(np.float64)

    hits, calls_and_positives = per_query(relevant & called), per_query(called) + per_query(relevant)
    right, pairs = per_query(relevant == called), per_query(np.ones_like(called))
    return {
        "f1": lambda weights: 200 * _ratio(hits @ weights, calls_and_positives @ weights),
        "accuracy": lambda weights: 100 * _ratio(right @ weights, pairs @ weights),
    }


def _mean(values: QueryValues) -> Metric:
    def metric(weights: Weights) -> Values:
        used = weights[values.query]
        return _ratio(values.value @ used, used.sum(axis=0))

    return metric


def _ratio(above: Values, below: Values) -> Values:
    quotient = np.full(below.shape, np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient
