"""GLM checkpoint folders in the layout of `THUDM/glm-*`: config.json, weights, tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from training.models.checkpoint import CheckpointError, quiet_transformers
from training.models.glm.config import GLMConfig
from training.models.glm.model import GLMModel

_OURS = "transformer.segment_embeddings.weight"


def load_glm(folder: Path, *, segment_count: int = 0, dropout: float = 0.0, **changes: Any) -> GLMModel:
    """The model of a folder in fp32, with a segment table of zeros where the checkpoint has none.

    Raises CheckpointError for a missing or unreadable folder, and for weights that are absent, unknown or
    of another shape: each by name.
    """
    quiet_transformers()
    try:
        config = GLMConfig.from_pretrained(
            folder,
            segment_count=segment_count,
            embedding_dropout_prob=dropout,
            attention_dropout_prob=dropout,
            output_dropout_prob=dropout,
            **changes,
        )
        loaded: Any = GLMModel.from_pretrained(
            folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: not a GLM checkpoint: {error}") from error
    model, info = loaded
    problems = [
        f"{name} has shape {tuple(found)}, the config asks for {tuple(wanted)}"
        for name, found, wanted in info["mismatched_keys"]
        if name != _OURS
    ]
    problems += [f"{name} is missing" for name in sorted(info["missing_keys"]) if name != _OURS]
    problems += [
        f"{name} is no weight of this model" for name in sorted(info["unexpected_keys"]) if name != _OURS
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(f"{folder}: {shown}. Use the config.json that belongs to these weights")
    glm: GLMModel = model
    return glm


def save_glm(model: GLMModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, model.safetensors and tokenizer.json; `load_glm` reads them back bit by bit."""
    quiet_transformers()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
