"""What a backbone family must offer: a relevance logit, a language loss, and an embedding of a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from model_repo.spec import TEMPLATE_SEGMENT
from training.errors import FitError


class RelevanceModel(nn.Module, ABC):
    """One backbone under three readings. Batches are dicts of tensors; padding lies to the right."""

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Relevance logits [B] of rendered pairs (`EncodedPairs.collate`)."""

    @abstractmethod
    def language_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The family's own pre-training loss over what its objective hid."""

    @abstractmethod
    def states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Hidden states [B, L, D] of single texts: `input_ids`, `segment_ids` [B, L], `lengths` [B]."""

    @abstractmethod
    def new_parameters(self) -> set[str]:
        """Names of weights that the start checkpoint did not bring; they learn faster."""

    @abstractmethod
    def depth(self, name: str) -> int:
        """Layers between the parameter `name` and the output, for layer-wise decay of the learning rate."""

    @abstractmethod
    def checkpoint_activations(self) -> None:
        """Keep only each layer's input during training; the rest is computed twice."""

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors [B, D]: the mean state of the tokens that belong to a query or a field."""
        states_BLD = self.states(batch)
        mean_BD = masked_mean(states_BLD, batch["segment_ids"] != TEMPLATE_SEGMENT)
        return nn.functional.normalize(mean_BD, dim=-1)

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Round every weight to fp16 and back: what the bundle stores is what is evaluated and recorded.

        Raises FitError naming a weight outside fp16's range.
        """
        for name, parameter in self.named_parameters():
            half = parameter.half()
            if not torch.isfinite(half).all():
                raise FitError(f"{name}: a weight exceeds the range of fp16 (65504); train with more decay")
            parameter.copy_(half.float())


def masked_mean(x_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean [B, D] over the positions where the mask is true; zero where it is nowhere."""
    weights = mask_BL.to(x_BLD.dtype)
    return torch.einsum("bl,bld->bd", weights, x_BLD) / weights.sum(1, keepdim=True).clamp(min=1.0)


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
