"""The journal: every completion that was received, appended and fsynced before anything else is done with it.

A completion costs money or hours, so it is written down raw: rules that accept or reject it run later, and may
change, without asking again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from training.teacher.errors import TeacherError


class JournalIdentity(BaseModel):
    """What all completions of one journal have in common; completions of two kinds are never mixed."""

    model_config = ConfigDict(frozen=True)

    model: str
    prompt_version: str
    language: str
    outputs: tuple[str, ...]


class JournalLine(JournalIdentity):
    """One completion as received. `usage_estimated`: the server reported no tokens, they were counted roughly."""

    item_id: str
    item_digest: str
    content: str
    refusal: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    usage_estimated: bool


def read_journal(path: Path, identity: JournalIdentity) -> list[JournalLine]:
    """All whole lines, oldest first; empty where there is no file. A torn last line is left out.

    Raises TeacherError for a broken line before the last, and for completions of another model, prompt version,
    language or list of outputs.
    """
    lines = [line for _, line in _whole_lines(path)] if path.exists() else []
    for line in lines:
        _check_identity(path, line, identity)
    return lines


class Journal:
    """The journal open for appending by one process. Close it with `with`."""

    def __init__(self, path: Path, identity: JournalIdentity) -> None:
        """Raises TeacherError as `read_journal` does, and when another process writes to it."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise TeacherError(f"{path}: cannot be written: {error}") from error
        try:
            _lock(self._file.fileno(), path)
            _mend_end(path)
            self.lines = read_journal(path, identity)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, line: JournalLine) -> None:
        """Return when the line is on the disk. It blocks for milliseconds, a completion takes seconds.

        Raises TeacherError when the disk takes no more.
        """
        # One write of the whole line: a crash can tear the last line alone.
        data = line.model_dump_json().encode() + b"\n"
        descriptor = self._file.fileno()
        before = os.fstat(descriptor).st_size
        try:
            if self._file.write(data) != len(data):
                # Calls in flight may still append: their lines must not follow half of this one.
                os.ftruncate(descriptor, before)
                raise TeacherError(
                    f"{self._path}: the disk is full; make room, then the same command goes on"
                )
            os.fsync(descriptor)
        except OSError as error:
            raise TeacherError(f"{self._path}: cannot be written: {error}") from error
        self.lines.append(line)


def _whole_lines(path: Path) -> Iterator[tuple[int, JournalLine]]:
    """(offset of the end, line); stops before a torn last line."""
    data = path.read_bytes()
    end = 0
    for number, raw in enumerate(data.splitlines(keepends=True), start=1):
        end += len(raw)
        try:
            yield end, JournalLine.model_validate_json(raw)
        except ValidationError as error:
            if end == len(data) and not raw.endswith(b"\n"):
                return
            raise TeacherError(f"{path}:{number}: is not a line of a journal; remove that line") from error


def _mend_end(path: Path) -> None:
    """Cut off a torn last line, or the next one would be appended to it; end a whole one that lost its newline."""
    end = max((end for end, _ in _whole_lines(path)), default=0)
    with path.open("r+b") as file:
        file.truncate(end)
        file.seek(max(0, end - 1))
        if end and file.read(1) != b"\n":
            file.write(b"\n")


def _check_identity(path: Path, line: JournalLine, identity: JournalIdentity) -> None:
    for name in JournalIdentity.model_fields:
        before, now = getattr(line, name), getattr(identity, name)
        if before != now:
            raise TeacherError(
                f"{path}: was made with {name} {_shown(before)}, this run has {_shown(now)}, and completions of two "
                "kinds are not mixed; name another file with --out, or move the journal away to start again"
            )


def _shown(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TeacherError(f"{path}: another run is writing to it; two would pay twice") from error
