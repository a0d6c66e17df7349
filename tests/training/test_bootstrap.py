"""MRR by hand and by loop; resampling by loop; differences over several seeds; p-values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.data.dataset import LabelScale
from training.data.pairs import LabelledPair
from training.evaluation import bootstrap as module
from training.evaluation.bootstrap import Run, bootstrap, paired_difference, seed_means
from training.evaluation.metrics import reciprocal_ranks

METRICS = ["auc", "f1", "accuracy", "ndcg10", "mrr"]
ITEMS = 12
SCALE = LabelScale(scale=(0, 3), relevant_from=2)
BINARY = LabelScale(scale=(0, 1), relevant_from=1)


def labelled(queries: int, seed: int = 0) -> list[LabelledPair]:
    rng = np.random.default_rng(seed)
    grades = rng.choice(4, p=[0.6, 0.2, 0.1, 0.1], size=(queries, ITEMS))
    # Ids run against file order, so that ties do not fall out right by accident.
    return [
        LabelledPair(f"q{q}", f"i{99 - i}", int(g)) for q, row in enumerate(grades) for i, g in enumerate(row)
    ]


def scored(pairs: list[LabelledPair], seed: int, *, signal: float = 1.0) -> Run:
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1.5, len(pairs))
    return Run(np.round(signal * np.array([pair.label for pair in pairs]) + noise, 1), 1.0)


def mrr_by_loop(pairs: list[LabelledPair], scores: np.ndarray, relevant_from: int) -> float:
    by_query: dict[str, list[tuple[float, str, int]]] = {}
    for pair, score in zip(pairs, scores, strict=True):
        by_query.setdefault(pair.query, []).append((-score, pair.item_id, pair.label))
    found = []
    for rows in by_query.values():
        ranks = [rank for rank, row in enumerate(sorted(rows), start=1) if row[2] >= relevant_from]
        if ranks:
            found.append(1 / ranks[0])
    return float(np.mean(found))


def auc(pairs: list[LabelledPair], scores: np.ndarray) -> float:
    return 100 * float(roc_auc_score([pair.label >= 2 for pair in pairs], scores))


def mrr(pairs: list[LabelledPair], scores: np.ndarray) -> float:
    return mrr_by_loop(pairs, scores, 2)


def resampled(pairs: list[LabelledPair], seed: int) -> tuple[list[LabelledPair], np.ndarray]:
    """One draw of whole queries, a repeated query under a name of its own, and the rows it took."""
    count = len(pairs) // ITEMS
    drawn = np.random.default_rng(seed).integers(0, count, count)
    rows = np.concatenate([np.arange(q * ITEMS, (q + 1) * ITEMS) for q in drawn])
    renamed = [
        pairs[row]._replace(query=f"{draw}-{pairs[row].query}")
        for draw, row in zip(np.repeat(np.arange(count), ITEMS), rows, strict=True)
    ]
    return renamed, rows


def test_mrr_by_hand_with_a_tie_and_a_query_that_has_nothing_to_find() -> None:
    pairs = [
        LabelledPair("first", "a", 0),
        LabelledPair("first", "b", 2),
        LabelledPair("none", "a", 1),
        LabelledPair("tied", "b", 3),
        LabelledPair("tied", "c", 0),
        LabelledPair("tied", "a", 0),
    ]
    values = reciprocal_ranks(pairs, np.array([0.1, 0.9, 0.9, 0.5, 0.7, 0.5]), relevant_from=2)
    assert values.query.tolist() == [0, 2]
    assert values.value.tolist() == pytest.approx([1.0, 1 / 3])
    found = bootstrap(
        pairs, np.array([0.1, 0.9, 0.9, 0.5, 0.7, 0.5]), scale=SCALE, threshold=0.5, resamples=5
    )
    assert found["mrr"].value == pytest.approx((1 + 1 / 3) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_mrr_agrees_with_a_loop_when_queries_are_scattered_over_the_file(seed: int) -> None:
    pairs = labelled(30, seed)
    np.random.default_rng(seed).shuffle(pairs)  # type: ignore[arg-type]
    run = scored(pairs, seed)
    found = bootstrap(pairs, run.scores, scale=SCALE, threshold=1.0, resamples=2)
    assert found["mrr"].value == pytest.approx(mrr_by_loop(pairs, run.scores, 2))


@pytest.mark.parametrize(("name", "naive"), [("auc", auc), ("mrr", mrr)])
def test_intervals_agree_with_a_loop_over_resampled_rows(name: str, naive: Callable[..., float]) -> None:
    pairs = labelled(25)
    run = scored(pairs, 1)
    found = bootstrap(pairs, run.scores, scale=SCALE, threshold=1.0, resamples=2000)
    values = []
    for draw in range(500):
        renamed, rows = resampled(pairs, draw)
        values.append(naive(renamed, run.scores[rows]))
    low, high = np.percentile(values, [2.5, 97.5])
    width = high - low
    assert found[name].low == pytest.approx(low, abs=0.15 * width)
    assert found[name].high == pytest.approx(high, abs=0.15 * width)


def test_one_resample_has_exactly_the_metrics_of_its_rows() -> None:
    pairs, count = labelled(10), 10
    run = scored(pairs, 2)
    drawn = np.random.default_rng(7).multinomial(count, np.full(count, 1 / count))
    rows = np.concatenate([np.arange(q * ITEMS, (q + 1) * ITEMS) for q in np.repeat(np.arange(count), drawn)])
    only = bootstrap(pairs, run.scores, scale=SCALE, threshold=1.0, resamples=1, seed=7)
    assert only["auc"].low == pytest.approx(auc([pairs[row] for row in rows], run.scores[rows]))


def test_the_size_of_a_block_does_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = labelled(10)
    run = scored(pairs, 3)
    whole = bootstrap(pairs, run.scores, scale=SCALE, threshold=1.0, resamples=50)
    monkeypatch.setattr(module, "_CELLS", 7 * len(pairs))
    in_blocks = bootstrap(pairs, run.scores, scale=SCALE, threshold=1.0, resamples=50)
    for name, interval in whole.items():
        assert (in_blocks[name].low, in_blocks[name].high) == pytest.approx((interval.low, interval.high))


def test_a_mask_gives_what_the_slice_alone_gives() -> None:
    pairs = labelled(20)
    run = scored(pairs, 4)
    mask = np.arange(len(pairs)) % 3 > 0
    inside = [pair for pair, chosen in zip(pairs, mask, strict=True) if chosen]
    common = {"scale": SCALE, "threshold": 1.0, "resamples": 40}
    assert bootstrap(pairs, run.scores, mask=mask, **common) == bootstrap(inside, run.scores[mask], **common)


def test_several_seeds_find_a_planted_difference_and_none_between_equal_recipes() -> None:
    pairs = labelled(60)
    good = [scored(pairs, seed) for seed in range(4)]
    equal = [scored(pairs, 100 + seed) for seed in range(4)]
    bad = [scored(pairs, 200 + seed, signal=0.5) for seed in range(4)]
    planted = paired_difference(pairs, good, bad, scale=SCALE)
    none = paired_difference(pairs, good, equal, scale=SCALE)
    assert list(planted) == METRICS
    for name in ("auc", "ndcg10", "mrr"):
        assert planted[name].low > 0, name
        assert planted[name].p_value < 0.02, name
        assert none[name].low < 0 < none[name].high, name
        assert none[name].p_value > 0.05, name
    by_hand = np.mean([auc(pairs, run.scores) for run in good]) - np.mean(
        [auc(pairs, run.scores) for run in bad]
    )
    assert planted["auc"].value == pytest.approx(by_hand)


def test_the_interval_covers_the_spread_between_seeds() -> None:
    pairs = labelled(60)
    quality = [0.2, 0.6, 1.0, 1.4]
    spread = [scored(pairs, seed, signal=signal) for seed, signal in enumerate(quality)]
    steady = [scored(pairs, 50 + seed, signal=0.8) for seed in range(4)]
    wide = seed_means(pairs, spread, scale=SCALE)["auc"]
    narrow = seed_means(pairs, steady, scale=SCALE)["auc"]
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_the_variance_over_seeds_is_that_of_their_mean() -> None:
    """With one query nothing but seeds varies, and s / sqrt(S) is known."""
    pairs = labelled(1, seed=3)
    values = [scored(pairs, seed) for seed in range(6)]
    single = [auc(pairs, run.scores) for run in values]
    found = seed_means(pairs, values, scale=SCALE, resamples=4000)["auc"]
    expected = np.std(single, ddof=1) / np.sqrt(len(single))
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(expected, rel=0.15)


def test_seeds_are_paired_only_where_their_number_is_equal() -> None:
    pairs = labelled(40)
    spread = [scored(pairs, seed, signal=signal) for seed, signal in enumerate([0.3, 0.8, 1.3])]
    same = paired_difference(pairs, spread, spread, scale=SCALE, resamples=200)["auc"]
    assert (same.value, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    unpaired = paired_difference(pairs, spread, [*spread, spread[1]], scale=SCALE, resamples=200)["auc"]
    assert unpaired.low < 0 < unpaired.high


def test_p_values_of_equal_models_spread_evenly_and_never_reach_zero() -> None:
    p_values = []
    for trial in range(100):
        pairs = labelled(40, trial)
        a, b = scored(pairs, 2 * trial + 1000), scored(pairs, 2 * trial + 1001)
        p_values.append(paired_difference(pairs, a, b, scale=SCALE, resamples=200)["auc"].p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.12
    assert 0.3 < np.mean(p_values) < 0.7
    pairs = labelled(40)
    worst = Run(-scored(pairs, 0, signal=5).scores, 0.0)
    clear = paired_difference(pairs, scored(pairs, 0, signal=5), worst, scale=SCALE, resamples=99)["auc"]
    assert clear.p_value == pytest.approx(1 / 100)


def test_one_class_has_neither_difference_nor_p_value() -> None:
    pairs = [LabelledPair("q", "a", 0), LabelledPair("q", "b", 0)]
    run = Run(np.zeros(2), 0.5)
    assert paired_difference(pairs, run, run, scale=BINARY, resamples=5)["mrr"].p_value is None


def test_no_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="no run"):
        seed_means(labelled(2), [], scale=SCALE)
