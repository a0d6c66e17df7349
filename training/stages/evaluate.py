"""Score dev and test with models and baselines, and put what they say into one JSON-able result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from model_repo.calibration import Calibration
from training.baselines import score_baseline
from training.config import RunConfig
from training.data.dataset import Dataset
from training.evaluation.bootstrap import bootstrap, paired_difference
from training.evaluation.metrics import best_threshold
from training.evaluation.predict import predict
from training.evaluation.scores import SplitScores
from training.evaluation.slices import slice_masks
from training.models.base import RelevanceModel
from training.models.embedding import Embedder
from training.rendering import PairSource

_BINS = 10
# Name in the report: name of the baseline. The trained ones cost a training run each and are asked for by name.
_STANDARD = {"bm25": "bm25", "minilm-cosine": "cosine"}


def model_scores(model: RelevanceModel, dataset: Dataset, source: PairSource, *, title: str) -> SplitScores:
    """Logits of a PyTorch model."""
    pad = source.encoder.spec.special_ids.pad
    dev, test = (
        predict(model, source.encode(dataset.labels(split)), pad_id=pad, title=f"{title} on {split}")
        for split in ("dev", "test")
    )
    return SplitScores(dev, test)


def baseline_scores(dataset: Dataset, config: RunConfig, embed: Embedder) -> dict[str, SplitScores]:
    """The baselines of every report: BM25 over all fields, and the start checkpoint's zero-shot cosine."""
    return {label: score_baseline(name, dataset, config, embed) for label, name in _STANDARD.items()}


def summarise(
    dataset: Dataset, scores: Mapping[str, SplitScores], calibration: Calibration, *, recipe: str
) -> dict[str, Any]:
    """Metrics with 95% intervals overall and by slice, differences to `recipe`, and the reliability curve."""
    pairs = dataset.labels("test")
    relevant_from = dataset.card.labels.relevant_from
    dev_relevant = np.array([pair.label >= relevant_from for pair in dataset.labels("dev")])
    thresholds = {name: float(best_threshold(dev_relevant, s.dev)) for name, s in scores.items()}
    masks = {"all": np.ones(len(pairs), dtype=bool), **slice_masks(dataset, pairs)}

    def measured(name: str, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
        chosen = [pair for pair, inside in zip(pairs, mask, strict=True) if inside]
        intervals = bootstrap(
            chosen, scores[name].test[mask], relevant_from=relevant_from, threshold=thresholds[name]
        )
        return {metric: asdict(interval) for metric, interval in intervals.items()}

    models = {name: {label: measured(name, mask) for label, mask in masks.items()} for name in scores}
    differences = {
        name: {
            metric: asdict(interval)
            for metric, interval in paired_difference(
                pairs,
                scores[recipe].test,
                scores[name].test,
                relevant_from=relevant_from,
                threshold_a=thresholds[recipe],
                threshold_b=thresholds[name],
            ).items()
        }
        for name in scores
        if name != recipe
    }
    test_relevant = np.array([pair.label >= relevant_from for pair in pairs])
    relevance = calibration.relevance(scores[recipe].test)
    return {
        "models": models,
        "differences": differences,
        "thresholds": thresholds,
        "reliability": reliability(relevance, test_relevant),
        "card": {
            "test": models[recipe],
            "baselines": {n: m["all"] for n, m in models.items() if n != recipe},
        },
    }


def reliability(relevance: npt.NDArray[np.float64], relevant: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Mean prediction and observed share in ten equal-width bins, and the expected calibration error."""
    bins = np.minimum((relevance * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    used = counts > 0
    predicted = np.bincount(bins, weights=relevance, minlength=_BINS)[used] / counts[used]
    observed = np.bincount(bins, weights=relevant, minlength=_BINS)[used] / counts[used]
    error = float((counts[used] * np.abs(predicted - observed)).sum() / counts.sum())
    return {
        "predicted": predicted.tolist(),
        "observed": observed.tolist(),
        "pairs": counts[used].tolist(),
        "expected_calibration_error": error,
    }
