"""Do predicted probabilities come true: the reliability curve and the expected calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_BINS = 10


def reliability(relevance: npt.NDArray[np.floating], relevant: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Mean prediction and observed share in ten equal-width bins, and the expected calibration error.

    The error (0..1) is the mean gap of a bin weighted by its pairs. It has no interval here: noise within bins
    only ever adds to it, so a bootstrap of it sits above the value.
    """
    bins = np.clip((relevance * _BINS).astype(int), 0, _BINS - 1)
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


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Without overflow, as the bundle's calibration computes it."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))
