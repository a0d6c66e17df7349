"""One canonical form for every text that is tokenised or hashed. Knows no tokenizer and no template."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

FieldValue = str | Sequence[str]

# C0 and C1 controls become spaces; format characters (joiners, bidi marks) stay, emoji need them.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def canonical_text(value: FieldValue) -> str:
    """Return `value` as one line: lists joined by ", ", NFC, controls to spaces, white space collapsed.

    Two values with the same canonical text are the same to the model, so the score cache keys on it too.
    """
    if not isinstance(value, str):
        return ", ".join(text for text in map(canonical_text, value) if text)
    return " ".join(_CONTROLS.sub(" ", unicodedata.normalize("NFC", value)).split())
