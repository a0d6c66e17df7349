"""The fallback score that needs no model: share of the query's words found in the item."""

from __future__ import annotations

import re
from collections.abc import Mapping

from model_repo.text import FieldValue, canonical_text

_WORD = re.compile(r"\w+")


def lexical_score(query: str, fields: Mapping[str, FieldValue]) -> float:
    """In [0, 1]; not a probability and never to be compared with one."""
    wanted = set(_WORD.findall(canonical_text(query).casefold()))
    if not wanted:
        return 0.0
    text = " ".join(canonical_text(value) for value in fields.values()).casefold()
    return len(wanted.intersection(_WORD.findall(text))) / len(wanted)
