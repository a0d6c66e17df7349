"""AUC, F1, accuracy and nDCG@10, as every report of this project defines them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve

from training.data.pairs import LabelledPair

Scores = npt.NDArray[np.floating]
CUTOFF = 10


class QueryValues(NamedTuple):
    """One nDCG@10 per query with any gain."""

    query: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]


def query_index(pairs: Sequence[LabelledPair]) -> npt.NDArray[np.int64]:
    """Number of each pair's query, in order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(pair.query, len(numbers)) for pair in pairs], dtype=np.int64)


def best_threshold(relevant: npt.NDArray[np.bool_], scores: Scores) -> float:
    """The score from which on calling pairs relevant maximises F1."""
    precision, recall, thresholds = precision_recall_curve(relevant, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[int(np.argmax(f1[:-1]))])


def ndcg_at_10(pairs: Sequence[LabelledPair], scores: Scores, *, lowest: int = 0) -> QueryValues:
    """nDCG@10 per query with gain 2^grade - 1 and discount 1 / log2(rank + 1).

    Queries without gain are left out; equal scores are ordered by item id.
    """
    query = query_index(pairs)
    gains = np.array([2.0 ** (pair.label - lowest) - 1.0 for pair in pairs])
    by_id = np.argsort(np.argsort([pair.item_id for pair in pairs], kind="stable"), kind="stable")
    count = int(query.max(initial=-1)) + 1
    actual = _dcg(query, gains, np.lexsort((by_id, -np.asarray(scores, dtype=np.float64), query)), count)
    ideal = _dcg(query, gains, np.lexsort((-gains, query)), count)
    used = np.flatnonzero(ideal > 0)
    return QueryValues(used, actual[used] / ideal[used])


def _dcg(
    query: npt.NDArray[np.int64], gains: npt.NDArray[np.float64], order: npt.NDArray[np.intp], count: int
) -> npt.NDArray[np.float64]:
    """DCG@10 of each query when its rows come in `order` (grouped by query)."""
    sorted_query = query[order]
    starts = np.searchsorted(sorted_query, np.arange(count))
    rank = np.arange(len(order)) - starts[sorted_query]
    kept = rank < CUTOFF
    weights = gains[order][kept] / np.log2(rank[kept] + 2)
    return np.bincount(sorted_query[kept], weights=weights, minlength=count).astype(np.float64)
