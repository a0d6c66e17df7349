"""What every model and baseline hands to the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class SplitScores:
    """Scores of one model in the order of the label files. Dev is for choices, test for reporting."""

    dev: npt.NDArray[np.float32]
    test: npt.NDArray[np.float32]
