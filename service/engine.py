"""The seam to the model: arrays in, logits out. Knows no HTTP, no cache and no queue."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from model_repo.bundle import Bundle, BundleError
from model_repo.encoding import EncodedPairs
from model_repo.golden import replay
from model_repo.runtime import OnnxScorer


class ScoreEngine(Protocol):
    """Blocking and thread-safe. `numerics` names graph, precision and engine, such as fp32/ort-cpu."""

    numerics: str

    def logits(self, pairs: EncodedPairs) -> npt.NDArray[np.float32]: ...


def admit(bundle: Bundle, *, threads: int) -> OnnxScorer:
    """Open a bundle's graph and replay its golden pairs: admission test and warm-up in one.

    Raises BundleError when the scores are not those of the PyTorch model.
    """
    scorer = OnnxScorer(bundle, threads=threads)
    report = replay(bundle.golden, bundle.encoder, scorer.logits)
    if not report.ok:
        raise BundleError(f"{bundle.path}: refused on {scorer.numerics}: {report.detail}")
    return scorer
