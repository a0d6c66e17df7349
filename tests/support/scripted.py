"""A relevance model of one weight, so that a test can say what it scores."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.models.base import RelevanceModel


class OneWeight(RelevanceModel):
    """logit = weight for pairs whose first query token is `token`, else 0."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self._token = token

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.weight * (batch["input_ids"][:, 1] == self._token).float()

    def language_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def states(self, batch: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def new_parameters(self) -> set[str]:
        return set()

    def depth(self, name: str) -> int:
        return 0

    def checkpoint_activations(self) -> None:
        raise NotImplementedError
