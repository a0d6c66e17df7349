"""What can be wrong with a row of input, and what happens to it: stop (strict) or drop and count (lenient)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from training.errors import UserError

_KEPT_PER_REASON = 20


class Reason(StrEnum):
    BROKEN_UTF8 = "broken-utf8"
    BROKEN_JSON = "broken-json"
    WRONG_COLUMNS = "wrong-columns"
    MISSING_FIELD = "missing-field"
    UNKNOWN_FIELD = "unknown-field"
    WRONG_TYPE = "wrong-type"
    EMPTY_TEXT = "empty-text"
    DUPLICATE_ITEM = "duplicate-item"
    DUPLICATE_PAIR = "duplicate-pair"
    UNKNOWN_ITEM = "unknown-item"
    LABEL_NOT_INTEGER = "label-not-integer"
    LABEL_OFF_SCALE = "label-off-scale"
    SCORE_NOT_NUMBER = "score-not-number"
    SCORE_OFF_SCALE = "score-off-scale"
    PAIR_MISMATCH = "pair-mismatch"
    COUNT_NOT_INTEGER = "count-not-integer"
    NEGATIVE_COUNT = "negative-count"
    CLICKS_EXCEED_IMPRESSIONS = "clicks-exceed-impressions"
    SPLIT_LEAK = "split-leak"


@dataclass(frozen=True, slots=True)
class Problem:
    """One bad row. `line` counts from 1."""

    file: Path
    line: int
    reason: Reason
    field: str
    detail: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.detail} ({self.reason}); {self.remedy}"


class DataError(UserError):
    """A data set cannot be used; the message names file, line, field and remedy."""


class ProblemLog:
    """Strict: the first problem raises DataError. Lenient: rows are dropped and counted by reason."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.counts: Counter[Reason] = Counter()
        self.kept: list[Problem] = []

    def add(self, problem: Problem) -> None:
        if self.strict:
            raise DataError(str(problem))
        self.counts[problem.reason] += 1
        if self.counts[problem.reason] <= _KEPT_PER_REASON:
            self.kept.append(problem)
