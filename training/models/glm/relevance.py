"""The `glm` family: relevance as a cloze reading, logit = h_sop . (E[yes] - E[no])."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from training.models.base import RelevanceModel
from training.models.glm.model import GLMModel


class RelevanceGlm(RelevanceModel):
    """Reads `[CLS] ... [MASK] ... <eos> sop`: the sop row sees all of the pair and tells the masked word.

    For two label words the difference of their raw logits is the log odds of "yes", so that serving needs
    no projection onto the vocabulary.
    """

    def __init__(self, glm: GLMModel, *, yes: int, no: int) -> None:
        super().__init__()
        self.glm, self.yes, self.no = glm, yes, no

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits [B]; needs `sep` (place of sop) and `mask_index` beside the ids, as GLM's spec makes them."""
        sep_B, rows = batch["sep"], torch.arange(len(batch["sep"]), device=batch["sep"].device)
        positions = _cloze_positions(batch["input_ids"], sep_B, batch["mask_index"])
        states = self.glm.hidden(batch["input_ids"], positions, sep_B, batch["segment_ids"])
        words = self.glm.word_embeddings.weight
        return states[rows, sep_B] @ (words[self.yes] - words[self.no])

    def language_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy over part B; only its rows pass the V-wide projection."""
        states = self.glm.hidden(
            batch["input_ids"], batch["position_ids"], batch["sep"], batch["segment_ids"]
        )
        told = batch["loss_mask"].bool()
        return functional.cross_entropy(self.glm.project(states[told]).float(), batch["targets"][told])

    def states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A single text is all part A."""
        places = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)
        positions = torch.stack([places, torch.zeros_like(places)]).expand(len(batch["input_ids"]), 2, -1)
        return self.glm.hidden(batch["input_ids"], positions, batch["lengths"], batch["segment_ids"])

    def new_parameters(self) -> set[str]:
        """The segment table alone: the cloze brings no new weight."""
        return {name for name, _ in self.named_parameters() if "segment_embeddings" in name}

    def checkpoint_activations(self) -> None:
        self.glm.gradient_checkpointing_enable()  # type: ignore[no-untyped-call]

    def depth(self, name: str) -> int:
        layers: int = self.glm.config.num_layers
        found = re.search(r"\.layers\.(\d+)\.", name)
        if found:
            return layers - int(found[1])
        return layers + 1 if "embeddings" in name else 0


def _cloze_positions(input_ids: Tensor, sep_B: Tensor, mask_index_B: Tensor) -> Tensor:
    """[B, 2, S]: 0, 1, 2... in part A; the sop row stands at its [MASK] with 1 within the span."""
    places = torch.arange(input_ids.shape[1], device=input_ids.device).expand(len(input_ids), -1)
    is_sop = places == sep_B[:, None]
    first = torch.where(is_sop, mask_index_B[:, None], places.clamp(max=int(sep_B.max())))
    return torch.stack([first, is_sop.long()], dim=1)
