"""Fit the calibration of a bundle on dev: probability, decision threshold, grade thresholds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from model_repo.calibration import Calibration
from training.data.dataset import LabelScale
from training.data.problems import DataError
from training.errors import FitError
from training.evaluation.metrics import Scores, best_threshold

_GRID = np.linspace(0.01, 0.99, 99)


def fit_calibration(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], scale: LabelScale
) -> Calibration:
    """Platt scaling (Platt 1999) on labels binarised at `relevant_from`, then thresholds on the probability.

    Raises DataError when dev has one class only, FitError when the model orders it backwards.
    """
    relevant = labels >= scale.relevant_from
    slope, intercept = fit_platt(logits, relevant)
    if slope <= 0:
        raise FitError(
            f"the model orders dev backwards (Platt slope {slope:.3f}): it has not learned; raise sft.optimiser.tokens "
            "or lower its learning rate"
        )
    low, high = scale.scale
    grades = tuple(scale.grade_names)
    blank = Calibration(
        method="platt",
        slope=slope,
        intercept=intercept,
        decision_threshold=0.5,
        grade_names=grades,
        grade_thresholds=tuple(np.linspace(0, 1, high - low + 2)[1:-1].tolist()),
    )
    relevance = blank.relevance(logits)
    return blank.model_copy(
        update={
            "decision_threshold": float(best_threshold(relevant, relevance)),
            "grade_thresholds": _grade_thresholds(relevance, labels - low, high - low + 1),
        }
    )


def fit_platt(scores: Scores, relevant: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """(slope, intercept) of P(relevant) = sigmoid(slope * score + intercept), by maximum likelihood.

    The slope is negative for scores that order pairs backwards. Raises DataError when there is one class only.
    """
    if relevant.all() or not relevant.any():
        raise DataError(
            "labels.dev: calibration needs relevant and irrelevant pairs; add some of the other kind"
        )
    platt = LogisticRegression(C=np.inf).fit(np.asarray(scores, dtype=np.float64)[:, None], relevant)
    return float(platt.coef_[0, 0]), float(platt.intercept_[0])


def _grade_thresholds(
    relevance: npt.NDArray[np.float64], grades: npt.NDArray[np.int64], count: int
) -> tuple[float, ...]:
    """Maximise macro-F1 by coordinate ascent over a grid of 99 probabilities, thresholds kept ascending."""
    chosen = list(np.quantile(relevance, np.cumsum(np.bincount(grades, minlength=count))[:-1] / len(grades)))

    def quality(thresholds: list[float]) -> float:
        return float(f1_score(grades, np.searchsorted(thresholds, relevance, side="right"), average="macro"))

    for _ in range(3):
        for index in range(count - 1):
            below = chosen[index - 1] if index else 0.0
            above = chosen[index + 1] if index + 1 < len(chosen) else 1.0
            options = [chosen[index], *(value for value in _GRID if below <= value <= above)]
            chosen[index] = max(options, key=lambda v: quality([*chosen[:index], v, *chosen[index + 1 :]]))
    return tuple(float(value) for value in chosen)
