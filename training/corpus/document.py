"""What a builder yields: documents of named segments, and drops with a reason. Knows no objective."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

QUERY = "query"
_KEPT_PER_REASON = 20


class DropReason(StrEnum):
    EMPTY_ITEM = "empty-item"
    LOW_SIMILARITY = "low-similarity"
    OVER_USED = "over-used"
    ALONE = "alone"
    UNKNOWN_ITEM = "unknown-item"
    TOO_SHORT = "too-short"
    COPIES_TITLE = "copies-title"
    BAD_LINE = "bad-line"
    EMPTY_QUERY = "empty-query"
    BAD_COUNT = "bad-count"
    CLICKS_EXCEED_IMPRESSIONS = "clicks-exceed-impressions"
    FEW_IMPRESSIONS = "few-impressions"
    FEW_CLICKS = "few-clicks"
    LOW_CTR = "low-ctr"
    BEYOND_CAP = "beyond-cap"
    HELD_OUT_QUERY = "held-out-query"
    """A query of dev or test: a model that has read it is not measured by it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A query, an item field, or prose about an item; `name` decides the segment id.

    `of` is the item whose own field this is; empty for what others say: queries and teacher prose.
    """

    name: str
    text: str
    of: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """Segments that belong together; `key` says what it was made from."""

    source: str
    key: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Something a rule refused; `count` of it where naming each would take too long."""

    source: str
    key: str
    reason: DropReason
    detail: str
    count: int = 1


Builder = Iterator[Document | Drop]


class CorpusReport:
    """Counts documents and drops while a builder is consumed; keeps some of each drop for reading."""

    def __init__(self) -> None:
        self._documents: Counter[str] = Counter()
        self._dropped: dict[str, Counter[str]] = {}
        self._shown: dict[str, Counter[str]] = {}
        self._kept: dict[str, list[str]] = {}

    def documents(self, builder: Builder) -> Iterator[Document]:
        """The documents of a builder; drops are counted on the way."""
        for made in builder:
            reasons = self._dropped.setdefault(made.source, Counter())
            if isinstance(made, Document):
                self._documents[made.source] += 1
                yield made
            else:
                shown = self._shown.setdefault(made.source, Counter())
                reasons[made.reason] += made.count
                shown[made.reason] += 1
                if shown[made.reason] <= _KEPT_PER_REASON:
                    self._kept.setdefault(made.source, []).append(f"{made.reason}: {made.key}: {made.detail}")

    def summary(self) -> dict[str, dict[str, Any]]:
        """Per corpus: documents, drops by reason, and examples of drops."""
        return {
            name: {
                "documents": self._documents[name],
                "dropped": dict(reasons),
                "examples": self._kept.get(name, []),
            }
            for name, reasons in self._dropped.items()
        }
