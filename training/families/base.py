"""The interface of a backbone family: its vocabulary, how it renders a pair, how it hides text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from model_repo.encoding import PairEncoder
from model_repo.spec import RenderSpec
from training.config import PretrainConfig, RenderConfig
from training.corpus.document import Document
from training.data.dataset import Dataset
from training.models.base import RelevanceModel
from training.objectives.rows import IntArray, Row


class Family(Protocol):
    """Everything that differs between GLM and a BERT."""

    tokenizer: Tokenizer
    start_weights: str
    """Where the start weights came from, for the model card."""

    def spec(self, dataset: Dataset, config: RenderConfig) -> RenderSpec:
        """How a pair of this data set becomes tokens."""
        ...

    def positions(self) -> int:
        """The most tokens that the start model can read at once. Raises CheckpointError for a broken folder."""
        ...

    def model(self, *, segments: int, dropout: float) -> RelevanceModel:
        """A model at its start weights; new weights are drawn from torch's generator."""
        ...

    def rows(self, documents: Sequence[Document], encoder: PairEncoder, *, max_tokens: int) -> list[Row]:
        """Tokenised documents."""
        ...

    def language_batch(
        self, rows: Sequence[Row], config: PretrainConfig, rng: np.random.Generator
    ) -> dict[str, IntArray]:
        """Rows with something hidden, as `RelevanceModel.language_loss` takes them."""
        ...
