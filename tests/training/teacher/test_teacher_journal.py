"""The journal after crashes, and the completions it refuses to mix."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from training.teacher.errors import TeacherError
from training.teacher.journal import Journal, JournalIdentity, JournalLine, read_journal

KIND = JournalIdentity(model="m", prompt_version="1", language="en", outputs=("summary", "queries"))


def line(item_id: str) -> JournalLine:
    return JournalLine(
        **KIND.model_dump(),
        item_id=item_id,
        item_digest="d",
        content="ü\u2028\n{}",
        refusal="",
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        usage_estimated=False,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of two lines."""
    with Journal(tmp_path / "new" / "rcd.journal.jsonl", KIND) as journal:
        journal.append(line("a"))
        journal.append(line("b"))
    return tmp_path / "new" / "rcd.journal.jsonl"


def ids(path: Path) -> list[str]:
    return [one.item_id for one in read_journal(path, KIND)]


def test_every_cut_of_the_file_reads_and_goes_on(path: Path) -> None:
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = ids(path)
        # A line that lost its newline alone was received whole: asking again would pay twice.
        assert kept == ["a", "b"][: (cut >= first - 1) + (cut >= len(whole) - 1)]
        with Journal(path, KIND) as journal:
            journal.append(line("c"))
        assert ids(path) == [*kept, "c"]


def test_a_broken_line_before_the_last_is_named(path: Path) -> None:
    path.write_bytes(b"{torn\n" + path.read_bytes())
    with pytest.raises(TeacherError, match=r"rcd\.journal\.jsonl:1: is not a line of a journal"):
        Journal(path, KIND)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other"}, "model m, this run has other"),
        ({"prompt_version": "2"}, "prompt_version 1, this run has 2"),
        ({"language": "de"}, "language en, this run has de"),
        ({"outputs": ("summary",)}, "outputs summary,queries, this run has summary"),
    ],
)
def test_completions_of_two_kinds_are_not_mixed(path: Path, change: dict[str, object], message: str) -> None:
    before = path.read_bytes()
    with pytest.raises(TeacherError, match=f"was made with {message}.*--out"):
        Journal(path, KIND.model_copy(update=change))
    assert path.read_bytes() == before


def _opens(path: Path) -> None:
    try:
        Journal(path, KIND)
    except TeacherError as error:
        raise SystemExit(3 if "another run" in str(error) else 4) from error


def test_a_second_run_is_kept_out(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with Journal(path, KIND):
        other = spawn.Process(target=_opens, args=(path,))
        other.start()
        other.join(60)
        assert other.exitcode == 3


def test_no_file_is_an_empty_journal(tmp_path: Path) -> None:
    assert ids(tmp_path / "none.jsonl") == []
