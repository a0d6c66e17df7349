"""Tables of (query, item) pairs: labels, scores and click counts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from training.data.lines import tsv_rows
from training.data.problems import DataError, Problem, ProblemLog, Reason

LABEL_COLUMNS = ("query", "item_id", "label")
SCORE_COLUMNS = (*LABEL_COLUMNS, "score")
CLICK_COLUMNS = ("query", "item_id", "impressions", "clicks")


class LabelledPair(NamedTuple):
    query: str
    item_id: str
    label: int


class ScoredPair(NamedTuple):
    """A labelled pair, its score and the line of the file that says so."""

    line: int
    pair: LabelledPair
    score: float


class Click(NamedTuple):
    """How often an item was shown for a query and how often it was clicked."""

    query: str
    item_id: str
    impressions: int
    clicks: int


def read_labels(
    path: Path, items: Collection[str], scale: tuple[int, int], log: ProblemLog
) -> Iterator[LabelledPair]:
    """Labels within `scale` of known items, each pair once."""
    seen: set[tuple[str, str]] = set()
    for number, (query, item_id, label) in tsv_rows(path, LABEL_COLUMNS, log):
        problem = _pair_problem(path, number, query, item_id, items, seen)
        problem = problem or _label_problem(path, number, label, scale)
        if problem:
            log.add(problem)
        else:
            seen.add((query, item_id))
            yield LabelledPair(query, item_id, int(label))


def read_scores(
    path: Path, items: Collection[str], scale: tuple[int, int], log: ProblemLog
) -> Iterator[ScoredPair]:
    """What `cprm-train score` writes: labels as `read_labels` takes them, and finite scores."""
    seen: set[tuple[str, str]] = set()
    for number, (query, item_id, label, score) in tsv_rows(path, SCORE_COLUMNS, log):
        problem = _pair_problem(path, number, query, item_id, items, seen)
        problem = problem or _label_problem(path, number, label, scale)
        problem = problem or _score_problem(path, number, score)
        if problem:
            log.add(problem)
        else:
            seen.add((query, item_id))
            yield ScoredPair(number, LabelledPair(query, item_id, int(label)), float(score))


def read_clicks(path: Path, items: Collection[str], log: ProblemLog) -> Iterator[Click]:
    """Click counts of known items, each pair once; from .tsv, .tsv.gz or .parquet."""
    seen: set[tuple[str, str]] = set()
    rows = _parquet_rows(path) if path.suffix == ".parquet" else tsv_rows(path, CLICK_COLUMNS, log)
    for number, (query, item_id, impressions, clicks) in rows:
        problem = _pair_problem(path, number, query, item_id, items, seen)
        problem = problem or _count_problem(path, number, impressions, clicks)
        if problem:
            log.add(problem)
        else:
            seen.add((query, item_id))
            yield Click(query, item_id, int(impressions), int(clicks))


def _parquet_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            missing = set(CLICK_COLUMNS) - set(file.schema_arrow.names)
            if missing:
                raise DataError(f"{path}: columns {sorted(missing)} are missing; it needs {CLICK_COLUMNS}")
            number = 0
            for batch in file.iter_batches(columns=list(CLICK_COLUMNS)):
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield number, ["" if cell is None else str(cell) for cell in row]
    except ArrowException as error:
        raise DataError(f"{path}: cannot be read: {error}; write the file again") from error


def _pair_problem(
    path: Path, line: int, query: str, item_id: str, items: Collection[str], seen: set[tuple[str, str]]
) -> Problem | None:
    if not query.strip():
        return Problem(path, line, Reason.EMPTY_TEXT, "query", "is empty", "drop the row")
    if item_id not in items:
        return Problem(
            path, line, Reason.UNKNOWN_ITEM, "item_id", f"{item_id!r} is not in items", "add the item"
        )
    if (query, item_id) in seen:
        detail = f"{query!r} with {item_id!r} repeats"
        return Problem(path, line, Reason.DUPLICATE_PAIR, "query", detail, "keep one row of the pair")
    return None


def _label_problem(path: Path, line: int, label: str, scale: tuple[int, int]) -> Problem | None:
    if not _is_integer(label):
        return Problem(path, line, Reason.LABEL_NOT_INTEGER, "label", f"{label!r}", "write a whole number")
    if not scale[0] <= int(label) <= scale[1]:
        detail = f"{label} is off the scale {scale[0]}..{scale[1]}"
        return Problem(path, line, Reason.LABEL_OFF_SCALE, "label", detail, "mend it or dataset.json")
    return None


def _score_problem(path: Path, line: int, score: str) -> Problem | None:
    try:
        if math.isfinite(float(score)):
            return None
    except ValueError:
        pass
    detail = f"{score!r} is no finite number"
    return Problem(path, line, Reason.SCORE_NOT_NUMBER, "score", detail, "write a number such as 0.25")


def _count_problem(path: Path, line: int, impressions: str, clicks: str) -> Problem | None:
    for name, value in (("impressions", impressions), ("clicks", clicks)):
        if not _is_integer(value):
            return Problem(path, line, Reason.COUNT_NOT_INTEGER, name, f"{value!r}", "write a whole number")
        if int(value) < 0:
            return Problem(path, line, Reason.NEGATIVE_COUNT, name, f"is {value}", "counts start at 0")
    if int(clicks) > int(impressions):
        detail = f"{clicks} clicks on {impressions} impressions"
        return Problem(path, line, Reason.CLICKS_EXCEED_IMPRESSIONS, "clicks", detail, "mend the log")
    return None


def _is_integer(text: str) -> bool:
    # Python refuses to read thousands of digits.
    return len(text) < 20 and text.isascii() and text.removeprefix("-").isdigit()
