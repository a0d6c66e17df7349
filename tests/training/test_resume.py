"""A training that is killed and started again ends where an undisturbed one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.killable import CONFIG, pretrain_tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TESTS = Path(__file__).parents[1]
TIMED = {"tokens_per_s", "mfu", "seconds"}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a process leaves that got SIGKILL with its curve begun and its work not done."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "support.killable", str(folder)]
    process = subprocess.Popen(command, cwd=TESTS, env=_environment(), stdout=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            if _seen(folder) > CONFIG.optimiser.tokens / 4:
                break
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    time.sleep(1.1)  # event files are named, and read, by the second
    return folder


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}


def _seen(folder: Path) -> int:
    path = folder / "stage.checkpoint"
    return int(torch.load(path, weights_only=True)["position"]["seen"]) if path.exists() else 0


def test_a_killed_training_ends_with_the_weights_and_the_curve_of_an_undisturbed_one(
    killed: Path, tmp_path: Path
) -> None:
    assert CONFIG.optimiser.tokens / 4 < _seen(killed) < CONFIG.optimiser.tokens
    resumed, curve = pretrain_tiny(killed)
    undisturbed, wanted = pretrain_tiny(tmp_path)
    assert [_untimed(point) for point in curve] == [_untimed(point) for point in wanted]
    assert len(curve) >= 3
    seconds = [point["seconds"] for point in curve]
    assert seconds == sorted(seconds)
    weights = undisturbed.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.state_dict().items())
    _tensorboard_shows(killed / "events", curve)


def _untimed(point: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in point.items() if name not in TIMED}


def _tensorboard_shows(events: Path, curve: list[dict[str, float]]) -> None:
    """Each point once, though the killed process had written some that were computed again."""
    shown = EventAccumulator(str(events)).Reload().Scalars("loss")
    assert [event.step for event in shown] == [point["tokens"] for point in curve]
    assert [event.value for event in shown] == pytest.approx([point["loss"] for point in curve])


def test_a_torn_checkpoint_never_takes_the_place_of_a_whole_one(tmp_path: Path) -> None:
    (tmp_path / "stage.part").write_bytes(b"half a checkpoint")
    _, curve = pretrain_tiny(tmp_path)
    assert curve[-1]["tokens"] >= CONFIG.optimiser.tokens
    assert _seen(tmp_path) > 0
    assert not (tmp_path / "stage.part").exists()
