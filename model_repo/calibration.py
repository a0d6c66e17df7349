"""Logit -> calibrated P(label >= relevant_from) -> grade name. Fitting lives in training."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Calibration(BaseModel):
    """relevance = sigmoid(slope * logit + intercept); temperature scaling is slope = 1/T, intercept = 0.

    Source: Platt 1999; Guo et al. 2017, section 4.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["platt", "temperature"]
    slope: float = Field(gt=0)
    intercept: float = 0.0
    decision_threshold: float = Field(ge=0, le=1)
    """Probability at which a pair counts as relevant; maximises F1 on dev."""
    grade_names: tuple[str, ...] = Field(min_length=2)
    grade_thresholds: tuple[float, ...]
    """Ascending probabilities between neighbouring grades; maximise macro-F1 on dev."""

    @model_validator(mode="after")
    def _one_threshold_between_grades(self) -> Self:
        if len(self.grade_thresholds) != len(self.grade_names) - 1:
            raise ValueError(f"{len(self.grade_names)} grades need {len(self.grade_names) - 1} thresholds")
        if list(self.grade_thresholds) != sorted(self.grade_thresholds):
            raise ValueError("grade_thresholds must ascend")
        return self

    def relevance(self, logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Probabilities in [0, 1] for logits of any shape."""
        z = self.slope * np.asarray(logits, dtype=np.float64) + self.intercept
        return 0.5 * (1.0 + np.tanh(0.5 * z))  # the sigmoid without overflow

    def grades(self, relevance: npt.ArrayLike) -> list[str]:
        """Grade names for a 1-D array of probabilities."""
        return [self.grade_names[i] for i in np.searchsorted(self.grade_thresholds, relevance, side="right")]
