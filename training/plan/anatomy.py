"""Sizes and weight counts of a model, taken from the real modules on torch's `meta` device: no weight is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM

from training.models.glm.config import GLMConfig
from training.models.glm.model import GLMModel


@dataclass(frozen=True, slots=True)
class Anatomy:
    """`parameters` is exact. `layer_weights` and `head_weights` are those in matrix products, which cost time.

    The head is the projection onto the vocabulary; where it shares the word table it is no parameter of its own.
    """

    name: str
    layers: int
    hidden: int
    vocabulary: int
    positions: int
    parameters: int
    layer_weights: int
    head_weights: int
    apart: bool
    """Q, K and V are three projections (BERT), so that autocast casts their common input three times."""


def glm_anatomy(name: str, config: GLMConfig) -> Anatomy:
    """`config.segment_count` counts the segment table."""
    with torch.device("meta"):
        glm = GLMModel(config)
    return Anatomy(
        name=name,
        layers=config.num_layers,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        positions=config.max_sequence_length + 1,
        parameters=_count(glm),
        layer_weights=_matrices(glm.transformer.layers),
        head_weights=config.vocab_size * config.hidden_size,
        apart=False,
    )


def encoder_anatomy(name: str, folder: Path, *, segments: int) -> Anatomy:
    """What `RelevanceEncoder` makes of a checkpoint folder; reads its config.json alone."""
    config: Any = AutoConfig.from_pretrained(folder)
    untyped: Any = AutoModelForMaskedLM
    with torch.device("meta"):
        masked_lm = untyped.from_config(config)
    embeddings = masked_lm.base_model.embeddings.token_type_embeddings
    hidden = int(config.hidden_size)
    relevance_head = hidden * hidden + hidden + hidden + 1 + 2
    grown = (segments - embeddings.num_embeddings) * hidden
    return Anatomy(
        name=name,
        layers=config.num_hidden_layers,
        hidden=hidden,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        parameters=_count(masked_lm) + grown + relevance_head,
        layer_weights=_matrices(masked_lm.base_model.encoder),
        head_weights=config.vocab_size * hidden + hidden * hidden,
        apart=True,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _matrices(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)
