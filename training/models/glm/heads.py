"""Heads of the authors' code over a GLM: sequence classification and the two cloze readings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.glm.model import GLMModel


class GLMForSequenceClassification(nn.Module):
    """Pooled state -> tanh -> labels. Pool at `cls` (first token), `start` (index sep) or `pad` (index sep - 1)."""

    def __init__(self, glm: GLMModel, *, labels: int, dropout: float = 0.1) -> None:
        """Raises ValueError for a `pool_token` of the config that is none of the three."""
        super().__init__()
        if glm.config.pool_token not in ("cls", "start", "pad"):
            raise ValueError(f"pool_token {glm.config.pool_token!r}: must be cls, start or pad")
        self.glm, self.pool_token = glm, glm.config.pool_token
        self.pool_layer = nn.Linear(glm.config.hidden_size, glm.config.hidden_size)
        self.multichoice_dropout = nn.Dropout(dropout)
        self.multichoice_head = nn.Linear(glm.config.hidden_size, labels)

    def forward(self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, labels]."""
        hidden = self.glm.hidden(input_ids, position_ids, attention_mask)
        row = {"cls": torch.zeros_like(attention_mask), "start": attention_mask, "pad": attention_mask - 1}
        pooled = hidden[torch.arange(len(hidden)), row[self.pool_token]]
        pooled = self.multichoice_dropout(torch.tanh(self.pool_layer(self.multichoice_dropout(pooled))))
        logits: Tensor = self.multichoice_head(pooled)
        return logits


def single_token_cloze(
    glm: GLMModel, input_ids: Tensor, position_ids: Tensor, sep: Tensor, target_ids: Tensor
) -> Tensor:
    """Raw logits [B, choices] of one-token answers `target_ids` [B, choices], read at index `sep` (the sop row)."""
    hidden = glm.hidden(input_ids, position_ids, sep)
    row_BD = hidden[torch.arange(len(hidden)), sep]
    return torch.einsum("bd,bcd->bc", row_BD, glm.word_embeddings(target_ids))


def multi_token_cloze(
    glm: GLMModel,
    input_ids: Tensor,
    position_ids: Tensor,
    sep: Tensor,
    target_ids: Tensor,
    logit_mask: Tensor,
) -> Tensor:
    """Summed log probability [B, choices] of answers of several tokens; inputs carry a choice axis [B, C, ...]."""
    batch, choices = input_ids.shape[:2]
    logits = glm(input_ids.flatten(0, 1), position_ids.flatten(0, 1), sep.flatten(0, 1))
    log_p = logits.float().log_softmax(-1).gather(-1, target_ids.flatten(0, 1)[..., None])[..., 0]
    told: Tensor = (log_p * logit_mask.flatten(0, 1)).sum(-1)
    return told.reshape(batch, choices)
