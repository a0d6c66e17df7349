"""Metrics against scikit-learn and by hand; the bootstrap against plain resampling."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, ndcg_score, roc_auc_score

from training.data.dataset import Dataset, LabelScale
from training.data.pairs import LabelledPair
from training.errors import FitError
from training.evaluation.bm25 import bm25_scores
from training.evaluation.bootstrap import Run, bootstrap, paired_difference
from training.evaluation.calibrate import fit_calibration
from training.evaluation.metrics import best_threshold, ndcg_at_10
from training.evaluation.slices import slice_masks

SCALE = LabelScale(scale=(0, 3), relevant_from=2)
BINARY = LabelScale(scale=(0, 1), relevant_from=1)


def random_case(seed: int, queries: int = 12) -> tuple[list[LabelledPair], np.ndarray]:
    rng = np.random.default_rng(seed)
    pairs = [
        LabelledPair(f"q{q}", f"i{i:02d}", int(rng.choice(4, p=[0.6, 0.2, 0.1, 0.1])))
        for q in range(queries)
        for i in range(15)
    ]
    scores = np.round(np.array([p.label for p in pairs]) + rng.normal(0, 1.5, len(pairs)), 1)  # with ties
    return pairs, scores


@pytest.mark.parametrize("seed", range(3))
def test_values_agree_with_scikit_learn(seed: int) -> None:
    pairs, scores = random_case(seed)
    relevant = np.array([p.label >= 2 for p in pairs])
    found = bootstrap(pairs, scores, scale=SCALE, threshold=1.0, resamples=10)
    assert found["auc"].value == pytest.approx(100 * roc_auc_score(relevant, scores))
    assert found["f1"].value == pytest.approx(100 * f1_score(relevant, scores >= 1.0))
    assert found["accuracy"].value == pytest.approx(100 * accuracy_score(relevant, scores >= 1.0))


def test_ndcg_agrees_with_scikit_learn_where_nothing_ties() -> None:
    pairs, scores = random_case(0)
    scores = scores + np.linspace(0, 1e-3, len(scores))
    by_hand = []
    for start in range(0, len(pairs), 15):
        gains = np.array([[2.0**p.label - 1 for p in pairs[start : start + 15]]])
        if gains.sum():
            by_hand.append(ndcg_score(gains, scores[None, start : start + 15], k=10))
    assert ndcg_at_10(pairs, scores, lowest=0).value.tolist() == pytest.approx(by_hand)


def test_ndcg_breaks_ties_by_item_id_and_leaves_out_queries_without_gain() -> None:
    pairs = [LabelledPair("q", "b", 1), LabelledPair("q", "a", 0), LabelledPair("none", "a", 0)]
    values = ndcg_at_10(pairs, np.zeros(3), lowest=0)
    assert values.query.tolist() == [0]
    assert values.value.tolist() == pytest.approx([1 / np.log2(3)])


def test_a_scale_from_1_measures_as_the_same_grades_from_0() -> None:
    pairs, scores = random_case(3)
    raised = [pair._replace(label=pair.label + 1) for pair in pairs]
    from_1 = LabelScale(scale=(1, 5), relevant_from=3)
    assert bootstrap(raised, scores, scale=from_1, threshold=1.0, resamples=10) == bootstrap(
        pairs, scores, scale=SCALE, threshold=1.0, resamples=10
    )


def test_the_bootstrap_is_resampling_of_whole_queries() -> None:
    pairs, scores = random_case(1)
    found = bootstrap(pairs, scores, scale=SCALE, threshold=1.0, resamples=400, seed=5)
    rng, values = np.random.default_rng(0), []
    relevant = np.array([p.label >= 2 for p in pairs])
    for _ in range(400):
        rows = np.concatenate([np.arange(q * 15, q * 15 + 15) for q in rng.integers(0, 12, 12)])
        values.append(100 * roc_auc_score(relevant[rows], scores[rows]))
    low, high = np.percentile(values, [2.5, 97.5])
    assert found["auc"].low == pytest.approx(low, abs=1.5)
    assert found["auc"].high == pytest.approx(high, abs=1.5)


def test_a_model_does_not_differ_from_itself_but_from_a_worse_one() -> None:
    pairs, scores = random_case(2, queries=40)
    noise = np.random.default_rng(0).normal(size=len(scores))
    common = {"scale": SCALE, "resamples": 200}
    same = paired_difference(pairs, Run(scores, 1.0), Run(scores, 1.0), **common)
    assert (same["auc"].low, same["auc"].high) == (0.0, 0.0)
    better = paired_difference(pairs, Run(scores, 1.0), Run(noise, 1.0), **common)
    assert better["auc"].low is not None
    assert better["auc"].low > 0


def test_one_class_gives_no_auc_instead_of_a_number() -> None:
    pairs = [LabelledPair("q", "a", 0), LabelledPair("q", "b", 0)]
    assert bootstrap(pairs, np.zeros(2), scale=BINARY, threshold=0.5, resamples=5)["auc"].value is None


def test_the_best_threshold_maximises_f1() -> None:
    pairs, scores = random_case(3)
    relevant = np.array([p.label >= 2 for p in pairs])
    best = f1_score(relevant, scores >= best_threshold(relevant, scores))
    assert best == pytest.approx(max(f1_score(relevant, scores >= t) for t in np.unique(scores)))


def test_calibration_recovers_probabilities(sample: Dataset) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000).astype(np.float32)
    labels = np.where(rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits - 1))), 3, 0)
    fitted = fit_calibration(logits, labels, sample.card.labels)
    assert fitted.slope == pytest.approx(0.5, abs=0.03)
    assert fitted.intercept == pytest.approx(-1, abs=0.06)
    with pytest.raises(FitError, match="backwards"):
        fit_calibration(-logits, labels, sample.card.labels)


def test_bm25_agrees_with_the_published_yardstick(sample: Dataset) -> None:
    pairs = sample.labels("test")
    found = bootstrap(pairs, bm25_scores(sample, pairs), scale=SCALE, threshold=1.0, resamples=2)
    assert found["auc"].value == pytest.approx(55.9, abs=1.5)
    assert found["ndcg10"].value == pytest.approx(0.379, abs=0.02)


def test_slices_cover_intents_cold_items_lengths_and_styles(sample: Dataset) -> None:
    masks = slice_masks(sample, sample.labels("test"))
    styles = {f"style: {name}" for name in ("short", "colloquial", "long", "typo", "brand", "city")}
    lengths = {"1-2 words", "3-5 words", "6+ words"}
    assert set(masks) == {"seen-intent", "unseen-intent", "cold items"} | lengths | styles
    assert (sum(masks[name].astype(int) for name in styles) == 1).all()
    assert (masks["seen-intent"] ^ masks["unseen-intent"]).all()
