"""GLMs small enough to compute in milliseconds, and the recorded arrays of the authors' code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.models.glm.config import GLMConfig
from training.models.glm.folder import save_glm
from training.models.glm.model import GLMModel
from training.models.glm.vocabulary import GLMSpecials, train_tokenizer

GOLDEN = Path(__file__).parents[1] / "parity" / "glm_golden"
TEXTS = [
    "gas bill",
    "pay the gas bill",
    "rent a flat",
    "a bus to the city",
    "is it relevant ?",
    "yes or no",
] * 5


def golden(name: str) -> dict[str, np.ndarray]:
    """One recorded file by its name without suffix."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def golden_tensors(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in golden(name).items()}


def golden_model(**changes: Any) -> GLMModel:
    """The recorded weights in our model, in eval mode."""
    sizes = json.loads((GOLDEN / "config.json").read_text())["config"]
    sizes.pop("seed")
    model = GLMModel(GLMConfig(**(sizes | changes)))
    model.load_state_dict(golden_tensors("state_dict"))
    return model.eval()


def golden_specials() -> GLMSpecials:
    ids = json.loads((GOLDEN / "config.json").read_text())["special_ids"]
    return GLMSpecials(
        cls=ids["ENC"],
        mask=ids["MASK"],
        eos=ids["eos"],
        sop=ids["sop"],
        eop=ids["eop"],
        segment_mask=ids["sMASK"],
        document_mask=ids["gMASK"],
    )


def tiny_glm(*, seed: int = 0, **changes: Any) -> GLMModel:
    """Two layers of 16; every weight, segment table and biases too, differs from zero, so that each counts."""
    sizes: dict[str, Any] = {
        "num_layers": 2,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "max_sequence_length": 128,
        "vocab_size": 128,
        "embedding_dropout_prob": 0.0,
        "attention_dropout_prob": 0.0,
        "output_dropout_prob": 0.0,
    }
    torch.manual_seed(seed)
    model = GLMModel(GLMConfig(**(sizes | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def tiny_tokenizer() -> Tokenizer:
    """A vocabulary of at most 128 learnt from a handful of texts."""
    return train_tokenizer(TEXTS, vocab_size=110)


def tiny_glm_folder(folder: Path, **changes: Any) -> Path:
    """A checkpoint folder that the `glm` family can start from."""
    save_glm(tiny_glm(**changes), tiny_tokenizer(), folder)
    return folder
