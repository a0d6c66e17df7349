"""Score dev and test with models and baselines, and put what they say into one JSON-able result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model_repo.calibration import Calibration
from training.baselines import score_baseline
from training.config import RunConfig
from training.data.dataset import Dataset
from training.data.problems import DataError
from training.evaluation.bootstrap import Mask, Run, paired_difference, plain, seed_means
from training.evaluation.calibrate import fit_platt
from training.evaluation.metrics import Scores, best_threshold
from training.evaluation.predict import predict
from training.evaluation.reliability import reliability, sigmoid
from training.evaluation.scores import SplitScores
from training.evaluation.slices import slice_masks, slice_sizes
from training.models.base import RelevanceModel
from training.models.embedding import Embedder
from training.rendering import PairSource

# The trained baselines cost a training run each and are asked for by name.
_STANDARD = ("bm25", "minilm-cosine")


def model_scores(model: RelevanceModel, dataset: Dataset, source: PairSource, *, title: str) -> SplitScores:
    """Logits of a PyTorch model on dev and test."""
    dev, test = (split_scores(model, dataset, source, split, title=title) for split in ("dev", "test"))
    return SplitScores(dev, test)


def split_scores(
    model: RelevanceModel, dataset: Dataset, source: PairSource, split: str, *, title: str
) -> Scores:
    """Logits [pairs of the split] of a PyTorch model, which is moved to the GPU where there is one."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    pad = source.encoder.spec.special_ids.pad
    return predict(model, source.encode(dataset.labels(split)), pad_id=pad, title=f"{title} on {split}")


def baseline_scores(dataset: Dataset, config: RunConfig, embed: Embedder) -> dict[str, SplitScores]:
    """The baselines of every report: BM25 over all fields, and the start checkpoint's zero-shot cosine."""
    return {name: score_baseline(name, dataset, config, embed) for name in _STANDARD}


def check_labels(dataset: Dataset) -> None:
    """Raises DataError where dev cannot calibrate or test cannot tell: better before a training than after it."""
    for split in ("dev", "test"):
        relevant = relevant_pairs(dataset, split)
        if relevant.all() or not relevant.any():
            only = "relevant" if relevant.all() else "irrelevant"
            raise DataError(
                f"labels.{split}: holds {only} pairs alone (relevant_from {dataset.card.labels.relevant_from}); "
                "add pairs of the other kind"
            )


def summarise(
    dataset: Dataset,
    scores: Mapping[str, SplitScores],
    calibration: Calibration,
    *,
    recipe: str,
    control: str | None = None,
) -> dict[str, Any]:
    """What metrics.json holds: metrics with 95% intervals, overall and by slice, differences, calibration.

    Differences are `recipe` minus each other model, and minus `control` also by slice.
    """
    pairs, scale = dataset.labels("test"), dataset.card.labels
    dev_relevant, test_relevant = (relevant_pairs(dataset, split) for split in ("dev", "test"))
    runs = {name: Run(s.test, best_threshold(dev_relevant, s.dev)) for name, s in scores.items()}
    masks = {"all": np.ones(len(pairs), dtype=bool), **slice_masks(dataset, pairs)}

    def minus(name: str, mask: Mask) -> dict[str, Any]:
        found = paired_difference(pairs, runs[recipe], runs[name], scale=scale, mask=mask)
        return plain(found)

    models = {
        name: {label: plain(seed_means(pairs, run, scale=scale, mask=mask)) for label, mask in masks.items()}
        for name, run in runs.items()
    }
    errors = {name: platt_error(s, dev_relevant, test_relevant) for name, s in scores.items()}
    return {
        "models": models,
        "slices": slice_sizes(pairs, masks),
        "differences": {name: minus(name, masks["all"]) for name in scores if name != recipe},
        "slice_differences": (
            {control: {label: minus(control, mask) for label, mask in masks.items()}}
            if control is not None
            else {}
        ),
        "thresholds": {name: run.threshold for name, run in runs.items()},
        "calibration": errors,
        "reliability": reliability(calibration.relevance(scores[recipe].test), test_relevant),
        "card": {
            "test": models[recipe],
            "baselines": {n: m["all"] for n, m in models.items() if n != recipe},
            "expected_calibration_error": errors[recipe]["expected_calibration_error"],
        },
    }


def relevant_pairs(dataset: Dataset, split: str) -> npt.NDArray[np.bool_]:
    """Which pairs of a split count as relevant, in file order."""
    return np.array([pair.label >= dataset.card.labels.relevant_from for pair in dataset.labels(split)])


def platt_error(
    scores: SplitScores, dev_relevant: npt.NDArray[np.bool_], test_relevant: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Calibration error on test after Platt scaling on dev.

    Every model gets its own, baselines too: raw scores of BM25 or a cosine are no probabilities, and for the
    recipe it is the calibration of its bundle.
    """
    slope, intercept = fit_platt(scores.dev, dev_relevant)
    relevance = sigmoid(slope * scores.test.astype(np.float64) + intercept)
    error = reliability(relevance, test_relevant)["expected_calibration_error"]
    return {"slope": slope, "intercept": intercept, "expected_calibration_error": error}
