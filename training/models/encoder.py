"""The `encoder` family: a BERT-family masked LM with segment embeddings and a one-logit relevance head.

Shape suffixes: B pairs, L tokens, D hidden, N masked positions, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from model_repo.spec import FIRST_FIELD_SEGMENT, QUERY_SEGMENT
from training.models.base import RelevanceModel, masked_mean
from training.models.checkpoint import quiet_transformers

COSINE_EPS = 1e-8
# A cosine lies in [-1, 1]; times 10 it spans what a cross-entropy needs, and 0.4 is where
# the mean pair of a MiniLM space lies.
_COSINE_SCALE, _COSINE_CENTRE = 10.0, 0.4


class RelevanceEncoder(RelevanceModel):
    """Masked LM and relevance logit over one backbone.

    logit = scale * cos(mean of query tokens, mean of item tokens) + bias + MLP([CLS]).
    The cosine keeps what a bi-encoder checkpoint knew before fine-tuning; the MLP starts at zero and
    learns what the cosine cannot say.
    """

    def __init__(self, start: Path, *, segments: int, dropout: float, cosine: bool = True) -> None:
        """`segments`: rows of the segment table, `RenderSpec.segment_count`. `cosine` off: it starts at zero."""
        super().__init__()
        quiet_transformers()
        self.masked_lm: Any = AutoModelForMaskedLM.from_pretrained(
            start, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, dtype=torch.float32
        )
        _grow_segments(self.masked_lm, segments)
        width = self.masked_lm.config.hidden_size
        self.dense = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.normal_(self.out.weight, std=0.0 if cosine else 0.02)
        nn.init.zeros_(self.dense.bias)
        nn.init.zeros_(self.out.bias)
        scale = _COSINE_SCALE if cosine else 0.0
        self.cosine_scale = nn.Parameter(torch.tensor(scale), requires_grad=cosine)
        self.bias = nn.Parameter(torch.tensor(-scale * _COSINE_CENTRE))

    @property
    def lm_head(self) -> nn.Module:
        """BERT calls it `cls`, RoBERTa `lm_head`."""
        head: nn.Module = self.masked_lm.cls if hasattr(self.masked_lm, "cls") else self.masked_lm.lm_head
        return head

    def states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Last hidden states [B, L, D]; rows past `lengths` are padding."""
        length = batch["input_ids"].shape[1]
        mask_BL = torch.arange(length, device=batch["lengths"].device) < batch["lengths"][:, None]
        x_BLD: Tensor = self.masked_lm.base_model(
            input_ids=batch["input_ids"], token_type_ids=batch["segment_ids"], attention_mask=mask_BL.long()
        ).last_hidden_state
        return x_BLD

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Relevance logits [B]."""
        x_BLD = self.states(batch)
        segments = batch["segment_ids"]
        query_BD = masked_mean(x_BLD, segments == QUERY_SEGMENT)
        item_BD = masked_mean(x_BLD, segments >= FIRST_FIELD_SEGMENT)
        norm_B = (query_BD.square().sum(-1) * item_BD.square().sum(-1)).clamp(min=COSINE_EPS).sqrt()
        cosine_B = (query_BD * item_BD).sum(-1) / norm_B
        rest_B = self.out(torch.tanh(self.dense(x_BLD[:, 0])))[:, 0]
        logits_B: Tensor = self.cosine_scale * cosine_B + self.bias + rest_B
        return logits_B

    def language_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy over the masked positions; only those pass the V-wide projection."""
        x_BLD = self.states(batch)
        labels = batch["labels"]
        chosen = labels >= 0
        logits_NV = self.lm_head(x_BLD[chosen])
        return nn.functional.cross_entropy(logits_NV, labels[chosen])

    def new_parameters(self) -> set[str]:
        """Names of weights that the start checkpoint did not bring."""
        heads = (
            "dense.",
            "out.",
            "cosine_scale",
            "bias",
            "masked_lm.cls.predictions.transform",
            "masked_lm.lm_head",
        )
        return {name for name, _ in self.named_parameters() if name.startswith(heads)}

    def checkpoint_activations(self) -> None:
        self.masked_lm.gradient_checkpointing_enable()

    def depth(self, name: str) -> int:
        layers = self.masked_lm.config.num_hidden_layers
        found = re.search(r"\.layer\.(\d+)\.", name)
        if found:
            return int(layers - int(found[1]))
        return layers + 1 if ".embeddings." in name else 0


def _grow_segments(masked_lm: nn.Module, segments: int) -> None:
    """Grow the token-type table: template and query copy type 0, fields type 1 (type 0 where there is one)."""
    embeddings: Any = cast("Any", masked_lm).base_model.embeddings
    old = embeddings.token_type_embeddings.weight.data
    text_type = min(1, old.shape[0] - 1)
    rows = [0] * FIRST_FIELD_SEGMENT + [text_type] * (segments - FIRST_FIELD_SEGMENT)
    table = nn.Embedding(segments, old.shape[1])
    table.weight.data = old[rows].clone()
    embeddings.token_type_embeddings = table
    cast("Any", masked_lm).config.type_vocab_size = segments
