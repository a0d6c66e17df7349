"""The command against `transformers serve`: real HTTP, real sampling, a real kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLE, free_port
from support.chatter import ServedChatter, save_chatter

from training.data.check import check_dataset
from training.data.dataset import load_dataset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
ITEMS = 374
CONCURRENCY = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedChatter]:
    folder = tmp_path_factory.mktemp("chatter")
    served = ServedChatter(save_chatter(folder / "model"), free_port(), folder / "server.log")
    try:
        served.wait_until_ready()
        yield served
    finally:
        served.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The sample set without its completions."""
    copy = Path(shutil.copytree(SAMPLE, tmp_path / "data"))
    (copy / "rcd.jsonl").unlink()
    return copy


def command(server: ServedChatter, folder: Path, *more: str) -> list[str]:
    asked = ["--endpoint", server.url, "--data", str(folder), "--outputs", "summary,queries"]
    given = [*asked, "--concurrency", str(CONCURRENCY), "--model", server.model, *more]
    return [sys.executable, "-m", "training.cli", "teach", *given]


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, timeout=200, check=False)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 100
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_after_a_kill_the_same_command_asks_only_for_the_rest(server: ServedChatter, folder: Path) -> None:
    journal = folder / "rcd.journal.jsonl"
    first = subprocess.Popen(command(server, folder), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_for_lines(journal, 60, first)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    received = journal.read_bytes().count(b"\n")
    assert 60 <= received < ITEMS
    assert not (folder / "rcd.jsonl").exists()

    time.sleep(1)  # the server finishes what the killed process had asked for
    before = server.completions()
    resumed = finish(command(server, folder, "--price-in", "1", "--price-out", "2"))
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.startswith(f"{ITEMS - received} items to ask, ")
    assert server.completions() - before == ITEMS - received
    assert Counter(line["item_id"] for line in lines(journal)).most_common(1)[0][1] == 1

    again = finish(command(server, folder))
    assert (again.returncode, server.completions() - before) == (0, ITEMS - received)


def test_what_a_model_really_writes_becomes_a_data_set(server: ServedChatter, folder: Path) -> None:
    done = finish(command(server, folder, "--limit", "100", "--price-in", "1", "--price-out", "2"))
    assert done.returncode == 0, done.stderr
    journal, rejected = lines(folder / "rcd.journal.jsonl"), lines(folder / "rcd.rejected.jsonl")
    # Bytes are this model's tokens: prompts of 1,500 and more, answers of ten pieces at most.
    assert all(line["prompt_tokens"] > 1000 and 2 <= line["completion_tokens"] <= 11 for line in journal)
    assert not any(line["usage_estimated"] for line in journal)
    reasons = Counter((row["output"], row["reason"]) for row in rejected)
    assert reasons.keys() == {
        ("completion", "refusal"),
        ("completion", "invalid-json"),
        ("summary", "duplicate"),
    }
    completions = load_dataset(folder).completions()
    whole = reasons["completion", "refusal"] + reasons["completion", "invalid-json"]
    assert len(completions) == 100 - whole
    assert sum(row.summary is None for row in completions) == reasons["summary", "duplicate"]
    assert all(row.paraphrase is None and len(row.queries) == 1 for row in completions)
    assert check_dataset(folder).ok


def test_a_model_that_the_server_lacks_ends_the_job_in_one_line(server: ServedChatter, folder: Path) -> None:
    done = finish([*command(server, folder), "--model", "absent/model"])
    assert done.returncode == 1
    assert "absent/model" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folder / "rcd.jsonl").exists()
