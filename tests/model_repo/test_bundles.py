"""Bundles are admitted whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from model_repo.bundle import Bundle, BundleError, writing_version
from model_repo.calibration import Calibration
from model_repo.cli import main
from model_repo.golden import replay
from model_repo.manifest import Manifest
from model_repo.repository import Repository
from model_repo.runtime import OnnxScorer

FILES = ["model.onnx", "model.fp16.onnx", "weights.bin", "tokenizer.json", "golden.jsonl", "README.md"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found_and_the_file_named(own_repository: Path, name: str) -> None:
    path = own_repository / "tiny" / "1" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: differs from the manifest"):
        Bundle.load(path.parent)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(own_repository: Path, name: str) -> None:
    path = own_repository / "tiny" / "1" / name
    path.unlink()
    with pytest.raises(BundleError, match=f"{name}: missing"):
        Bundle.load(path.parent)


def test_a_half_copied_manifest_is_refused(own_repository: Path) -> None:
    path = own_repository / "tiny" / "1" / "manifest.json"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.load(path.parent)


def test_a_version_in_the_wrong_folder_is_refused(own_repository: Path) -> None:
    (own_repository / "tiny" / "1").rename(own_repository / "tiny" / "2")
    with pytest.raises(BundleError, match="is for tiny/1 but lies in tiny/2"):
        Bundle.load(own_repository / "tiny" / "2")


def test_a_manifest_cannot_name_files_elsewhere(own_repository: Path) -> None:
    path = own_repository / "tiny" / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../etc/passwd"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="not a plain file name"):
        Bundle.load(path.parent)


def test_the_fingerprint_covers_scores_and_nothing_else(tiny: Bundle) -> None:
    content = tiny.manifest.model_dump(mode="json")
    assert Manifest.model_validate(content | {"metrics": {"a": 1}}).fingerprint == tiny.fingerprint
    content["calibration"]["slope"] = 2.0
    with pytest.raises(ValueError, match="fingerprint"):
        Manifest.model_validate(content)


def test_an_existing_version_is_never_rewritten(own_repository: Path) -> None:
    with pytest.raises(BundleError, match="immutable"), writing_version(own_repository / "tiny", "1"):
        pytest.fail("must not be entered")


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with writing_version(tmp_path / "m", "1") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert list((tmp_path / "m").iterdir()) == []


def test_a_killed_writer_leaves_the_repository_as_it_was(own_repository: Path) -> None:
    code = (
        "import sys, time, pathlib; from model_repo.bundle import writing_version\n"
        f"with writing_version(pathlib.Path({str(own_repository / 'tiny')!r}), '2') as folder:\n"
        "    (folder / 'model.onnx').write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    repository = Repository(own_repository)
    assert repository.versions("tiny") == ["1"]
    assert Bundle.load(repository.resolve("tiny")).version == "1"


def test_of_two_writers_exactly_one_wins(tmp_path: Path) -> None:
    barrier, outcomes = threading.Barrier(2), []

    def write(content: str) -> None:
        try:
            with writing_version(tmp_path / "m", "1") as folder:
                (folder / "file").write_text(content)
                barrier.wait()
            outcomes.append(content)
        except BundleError:
            outcomes.append("lost")

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) in (["a", "lost"], ["b", "lost"])
    assert (tmp_path / "m" / "1" / "file").read_text() in outcomes


def test_aliases_and_versions_resolve(own_repository: Path) -> None:
    repository = Repository(own_repository)
    assert repository.names() == ["tiny"]
    assert repository.resolve("tiny", "production").name == "1"
    assert repository.next_version("tiny") == "2"
    with pytest.raises(BundleError, match="no version or alias '7'"):
        repository.resolve("tiny", "7")
    with pytest.raises(BundleError, match="there are \\['tiny'\\]"):
        repository.resolve("other")


def test_gc_keeps_what_an_alias_names(own_repository: Path) -> None:
    for version in ("2", "3"):
        (own_repository / "tiny" / version).mkdir()
    repository = Repository(own_repository)
    assert [path.name for path in repository.gc("tiny", keep=1)] == ["2"]
    assert repository.versions("tiny") == ["1", "3"]


def test_golden_pairs_replay_alone_and_together(tiny: Bundle) -> None:
    report = replay(tiny.golden, tiny.encoder, OnnxScorer(tiny, threads=1).logits)
    assert report.ok, report.detail
    assert report.max_abs_diff < 1e-5
    notes = {pair.note for pair in tiny.golden}
    assert {"longest pair", "non-Latin script", "one token each", "all fields cut"} <= notes


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (lambda z: z + 0.01, "golden pair"),
        (lambda z: np.full_like(z, np.nan), "golden pair"),
        (lambda z: z[:-1], "logits"),
        (lambda z: z + 0.01 * (len(z) > 1), "golden pair"),
    ],
    ids=["drift", "NaN", "wrong number", "depends on the company"],
)
def test_a_replay_finds(tiny: Bundle, fault: object, expected: str) -> None:
    scorer = OnnxScorer(tiny, threads=1)
    report = replay(tiny.golden, tiny.encoder, lambda pairs: fault(scorer.logits(pairs)))  # type: ignore[operator]
    assert not report.ok
    assert expected in report.detail


def test_calibration_is_monotone_and_does_not_overflow(tiny: Bundle) -> None:
    relevance = tiny.calibration.relevance([-1e4, -1.0, 0.0, 1.0, 1e4])
    assert relevance.tolist() == sorted(relevance)
    assert relevance[0] == 0.0
    assert relevance[-1] == 1.0
    assert tiny.calibration.grades([0.0, 1.0]) == ["irrelevant", "exact"]


def test_calibration_with_the_wrong_number_of_thresholds_is_refused() -> None:
    with pytest.raises(ValueError, match="2 grades need 1 thresholds"):
        Calibration(
            method="platt",
            slope=1,
            decision_threshold=0.5,
            grade_names=("a", "b"),
            grade_thresholds=(0.1, 0.2),
        )


def test_the_command_line_lists_verifies_and_promotes(
    own_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--bundles", str(own_repository)]
    assert main([*base, "list"]) == 0
    assert main([*base, "promote", "tiny", "1", "--alias", "candidate"]) == 0
    assert main([*base, "describe", "tiny", "candidate"]) == 0
    out = capsys.readouterr().out
    assert "tiny/1" in out
    assert "checksums right" in out
    (own_repository / "tiny" / "1" / "golden.jsonl").write_text("{}")
    assert main([*base, "verify", "tiny"]) == 1
    assert "golden.jsonl: differs" in capsys.readouterr().err
