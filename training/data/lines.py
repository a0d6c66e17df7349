"""Rows of text files, plain or gzipped, with their line numbers; one bad line never hides the next."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.data.problems import DataError, Problem, ProblemLog, Reason


def find(root: Path, *names: str) -> Path | None:
    """The first of `names` that exists, as it is or with .gz."""
    candidates = (root / (name + suffix) for name in names for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def text_lines(path: Path, log: ProblemLog) -> Iterator[tuple[int, str]]:
    """(line number, text without its line end); lines that are not UTF-8 go to the log."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                try:
                    yield number, line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    detail = f"byte {error.start + 1} of the line is not UTF-8"
                    log.add(
                        Problem(path, number, Reason.BROKEN_UTF8, "line", detail, "save the file as UTF-8")
                    )
        except (OSError, EOFError) as error:
            raise DataError(f"{path}: cannot be read: {error}; copy the file again") from error


def json_rows(path: Path, log: ProblemLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSON Lines file."""
    for number, line in text_lines(path, log):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            broken = next(_broken_texts(row), None) if "\\ud" in line.lower() else None
        except (ValueError, RecursionError) as error:
            log.add(
                Problem(path, number, Reason.BROKEN_JSON, "line", str(error), "write one JSON object a line")
            )
            continue
        if broken is not None:
            detail = "holds half of a surrogate pair, which is no character"
            remedy = "write the character itself in UTF-8"
            log.add(Problem(path, number, Reason.BROKEN_UTF8, broken, detail, remedy))
        elif isinstance(row, dict):
            yield number, row
        else:
            log.add(
                Problem(
                    path,
                    number,
                    Reason.WRONG_TYPE,
                    "line",
                    "is not an object",
                    "write one JSON object a line",
                )
            )


def _broken_texts(value: Any, field: str = "") -> Iterator[str]:
    """Dotted names of texts that UTF-8 cannot hold: JSON can escape what is no character."""
    if isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            yield field or "line"
    elif isinstance(value, list):
        for part in value:
            yield from _broken_texts(part, field)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _broken_texts(name, field)
            yield from _broken_texts(part, f"{field}.{name}" if field else name)


def tsv_rows(path: Path, columns: Sequence[str], log: ProblemLog) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of a tab-separated file whose first line must be `columns`.

    Raises DataError for another header: without it no cell can be trusted.
    """
    lines = text_lines(path, log)
    _, header = next(lines, (0, ""))
    if header.split("\t") != list(columns):
        raise DataError(f"{path}:1: header: is {header!r}; the first line must be {chr(9).join(columns)!r}")
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) == len(columns):
            yield number, cells
        elif line.strip():
            detail = f"{len(cells)} columns, expected {len(columns)}"
            log.add(Problem(path, number, Reason.WRONG_COLUMNS, "line", detail, "separate cells by one tab"))
