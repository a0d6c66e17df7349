"""Thresholds, nDCG@10 and MRR, as every report of this project defines them."""

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
    """One value per query that has something to find; `query` as `query_index` numbers them."""

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


def ndcg_at_10(pairs: Sequence[LabelledPair], scores: Scores, *, lowest: int) -> QueryValues:
    """nDCG@10 per query with gain 2^(grade - lowest) - 1 and discount 1 / log2(rank + 1).

    `lowest`: the scale's lowest grade, which gains nothing.

    Queries without gain are left out; equal scores are ordered by item id.
    """
    query = query_index(pairs)
    gains = np.array([2.0 ** (pair.label - lowest) - 1.0 for pair in pairs])
    count = int(query.max(initial=-1)) + 1
    actual = _dcg(query, gains, _ranking(pairs, query, scores), count)
    ideal = _dcg(query, gains, np.lexsort((-gains, query)), count)
    used = np.flatnonzero(ideal > 0)
    return QueryValues(used, actual[used] / ideal[used])


def reciprocal_ranks(pairs: Sequence[LabelledPair], scores: Scores, *, relevant_from: int) -> QueryValues:
    """1 / rank of each query's first relevant item; their mean is MRR.

    Queries without a relevant item are left out; equal scores are ordered by item id.
    """
    query = query_index(pairs)
    order = _ranking(pairs, query, scores)
    ordered = query[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered) + 1
    relevant = np.array([pair.label >= relevant_from for pair in pairs], dtype=bool)[order]
    found, first = np.unique(ordered[relevant], return_index=True)
    return QueryValues(found, 1.0 / rank[relevant][first])


def _ranking(
    pairs: Sequence[LabelledPair], query: npt.NDArray[np.int64], scores: Scores
) -> npt.NDArray[np.intp]:
    """Rows query by query, the best score first, equal scores by item id."""
    by_id = np.argsort(np.argsort([pair.item_id for pair in pairs], kind="stable"), kind="stable")
    return np.lexsort((by_id, -np.asarray(scores, dtype=np.float64), query))


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
