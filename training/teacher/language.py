"""Cheap signs that a text is in the wrong language: its script, and English where none is wanted.

Enough for how teachers fail (they answer in English or Chinese); telling German from Dutch would need a model.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’][^\W_]+)*")
_SCRIPTS = {
    "LATIN": "cs da de en es et fi fr hr hu id it lt lv ms nl no pl pt ro sk sl sv tr vi",
    "CYRILLIC": "be bg mk ru uk",
    "GREEK": "el",
    "ARABIC": "ar fa ur",
    "HEBREW": "he",
    "DEVANAGARI": "hi mr ne",
    "THAI": "th",
    "CJK": "ja zh",
    "HANGUL": "ko",
}
_SCRIPT_OF = {code: script for script, codes in _SCRIPTS.items() for code in codes.split()}
# Words that no other Latin-script language above shares as common words.
_ENGLISH = frozenset(
    [
        "the",
        "and",
        "with",
        "this",
        "that",
        "which",
        "your",
        "you",
        "from",
        "their",
        "they",
        "have",
        "when",
        "what",
    ]
)
_MIN_SHARE = 0.5
_MIN_ENGLISH_WORDS, _MIN_ENGLISH_SHARE = 3, 0.15


def word_count(text: str) -> int:
    """Words; in scripts without spaces every character counts as one."""
    return len(_WORD.findall(text))


def is_wrong_language(text: str, language: str) -> bool:
    """True when the text is surely not in `language` (a code such as "en" or "zh-CN"); unknown codes never are."""
    code = re.split(r"[-_]", language.lower())[0]
    expected = _SCRIPT_OF.get(code)
    if expected is None:
        return False
    if _share(text, expected) < _MIN_SHARE:
        return True
    return expected == "LATIN" and code != "en" and _is_english(text)


def _share(text: str, expected: str) -> float:
    """Share of letters in the expected script; names and brands in Latin letters are common everywhere."""
    counts = Counter(_script(char) for char in text if char.isalpha())
    total = counts.total() - (0 if expected == "LATIN" else counts["LATIN"] // 2)
    return counts[expected] / total if total else 1.0


def _script(char: str) -> str:
    name = unicodedata.name(char, "UNKNOWN").split()[0]
    return "CJK" if name in {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"} else name


def _is_english(text: str) -> bool:
    words = [word.lower() for word in _WORD.findall(text)]
    hits = sum(word in _ENGLISH for word in words)
    return hits >= _MIN_ENGLISH_WORDS and hits / len(words) >= _MIN_ENGLISH_SHARE
