"""One training loop for every stage: what it is called with."""

from __future__ import annotations

from training.loop.journal import Journal
from training.loop.train import DivergedError, LossFn, Watch, train

__all__ = ["DivergedError", "Journal", "LossFn", "Watch", "train"]
