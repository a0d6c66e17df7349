"""95% intervals by bootstrap over queries: whole queries are drawn, because their pairs hang together.

Where several runs (seeds) of one recipe are given, seeds are drawn as well as queries, so that the interval covers
the spread between seeds. Of S seeds S - 1 are drawn: drawing S would make the variance of their mean too small by
(S - 1) / S (Rao and Wu 1988), which is much for three seeds. Few seeds remain few: below five the interval is rough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.dataset import LabelScale
from training.data.pairs import LabelledPair
from training.evaluation.metrics import Scores
from training.evaluation.weighted import Run, Values, Weights, weighted_metrics

__all__ = [
    "RESAMPLES",
    "Difference",
    "Interval",
    "Mask",
    "Run",
    "bootstrap",
    "paired_difference",
    "plain",
    "seed_means",
]

RESAMPLES = 1000
Mask = npt.NDArray[np.bool_]
# Weights of one block, rows x draws: 32 MB. Memory does not grow with the number of resamples.
_CELLS = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95% percentile interval; None where it is undefined (one class only)."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Difference(Interval):
    """`p_value`: two-sided, twice the smaller share of draws beyond zero, at least 1 / (resamples + 1)."""

    p_value: float | None


def bootstrap(
    pairs: Sequence[LabelledPair],
    scores: Scores,
    *,
    scale: LabelScale,
    threshold: float,
    mask: Mask | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of auc, f1, accuracy (all in 0..100), ndcg10 and mrr (0..1) of one run.

    `mask` keeps the pairs of a slice; queries without any of them are not drawn.
    """
    run = Run(scores, threshold)
    return seed_means(pairs, run, scale=scale, mask=mask, resamples=resamples, seed=seed)


def seed_means(
    pairs: Sequence[LabelledPair],
    runs: Run | Sequence[Run],
    *,
    scale: LabelScale,
    mask: Mask | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of each metric's mean over runs; with several runs, seeds are drawn too."""
    chosen = _runs(runs)
    values = _resampled(pairs, chosen, scale, mask, resamples, seed)
    (weights,) = _seed_weights([len(chosen)], resamples, seed)
    return {name: Interval(*_percentiles(_mean(rows, weights))) for name, rows in values.items()}


def paired_difference(
    pairs: Sequence[LabelledPair],
    runs_a: Run | Sequence[Run],
    runs_b: Run | Sequence[Run],
    *,
    scale: LabelScale,
    mask: Mask | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """Mean over seeds of metric(a) minus mean over seeds of metric(b), on the same resampled queries.

    As many runs on either side count as paired by seed, in the order given: a draw takes the same seeds of both.
    """
    first, second = _runs(runs_a), _runs(runs_b)
    values = _resampled(pairs, [*first, *second], scale, mask, resamples, seed)
    weights_a, weights_b = _seed_weights([len(first), len(second)], resamples, seed)
    return {
        name: _difference(_mean(rows[: len(first)], weights_a) - _mean(rows[len(first) :], weights_b))
        for name, rows in values.items()
    }


def plain(measured: Mapping[str, Interval]) -> dict[str, dict[str, Any]]:
    """The same as JSON writes it."""
    return {name: asdict(interval) for name, interval in measured.items()}


def _runs(runs: Run | Sequence[Run]) -> list[Run]:
    chosen = [runs] if isinstance(runs, Run) else list(runs)
    if not chosen:
        raise ValueError("no run to measure")
    return chosen


def _resampled(
    pairs: Sequence[LabelledPair],
    runs: Sequence[Run],
    scale: LabelScale,
    mask: Mask | None,
    resamples: int,
    seed: int,
) -> dict[str, Values]:
    """Each metric [runs, resamples + 1], the same queries in a column; column 0 takes every query once."""
    if mask is not None:
        pairs = [pair for pair, inside in zip(pairs, mask, strict=True) if inside]
        runs = [Run(np.asarray(run.scores)[mask], run.threshold) for run in runs]
    metrics = [weighted_metrics(pairs, run, scale=scale) for run in runs]
    blocks = [
        np.array([[metric(weights) for metric in by_name.values()] for by_name in metrics])
        for weights in _query_weights(pairs, resamples, seed)
    ]
    return dict(zip(metrics[0], np.concatenate(blocks, axis=2).transpose(1, 0, 2), strict=True))


def _query_weights(pairs: Sequence[LabelledPair], resamples: int, seed: int) -> Iterator[Weights]:
    """Blocks of columns, [queries, draws] each; the draws do not depend on the size of a block."""
    count = len({pair.query for pair in pairs})
    yield np.ones((count, 1))
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // max(1, len(pairs)))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=size)
        yield np.ascontiguousarray(drawn.T, dtype=np.float64)


def _seed_weights(counts: Sequence[int], resamples: int, seed: int) -> list[Weights]:
    """Share of each seed in each column [seeds, resamples + 1]; equal counts get the same shares."""
    rng = np.random.default_rng([seed, 1])
    by_count: dict[int, Weights] = {}
    for count in dict.fromkeys(counts):
        drawn = rng.multinomial(max(1, count - 1), np.full(count, 1 / count), size=resamples)
        by_count[count] = np.vstack([np.full((1, count), 1 / count), drawn / max(1, count - 1)]).T
    return [by_count[count] for count in counts]


def _mean(rows: Values, weights: Weights) -> Values:
    mean: Values = np.einsum("sd,sd->d", rows, weights)
    return mean


def _percentiles(values: Values) -> tuple[float | None, float | None, float | None]:
    """(value, low, high) of a column 0 and the draws after it."""
    drawn = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(drawn):
        return None, None, None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(values[0]), float(low), float(high)


def _difference(values: Values) -> Difference:
    value, low, high = _percentiles(values)
    if value is None:
        return Difference(None, None, None, None)
    drawn = values[1:][~np.isnan(values[1:])]
    share = 2 * min(np.mean(drawn <= 0), np.mean(drawn >= 0))
    return Difference(value, low, high, float(np.clip(share, 1 / (len(drawn) + 1), 1.0)))
