"""Fixtures that several folders need."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_repo.bundle import Bundle
from training.data.dataset import Dataset, load_dataset

SAMPLE = Path(__file__).parents[1] / "data" / "sample"


@pytest.fixture(scope="session")
def sample() -> Dataset:
    return load_dataset(SAMPLE)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle `tiny/1`. Tests that change files copy its repository first."""
    from support.tiny import tiny_bundle

    root = tmp_path_factory.mktemp("tiny")
    return tiny_bundle(root, root / "bundles")


@pytest.fixture
def own_repository(tiny: Bundle, tmp_path: Path) -> Path:
    """A copy of the tiny repository that a test may damage."""
    return Path(shutil.copytree(tiny.path.parents[1], tmp_path / "bundles"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class RedisProcess:
    """A real redis-server that a test may stop and start again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir"]
        self.process = subprocess.Popen([*command, str(self._folder)], stdout=subprocess.DEVNULL)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("redis-server did not start")

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def redis_process(tmp_path: Path) -> Iterator[RedisProcess]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    process = RedisProcess(tmp_path)
    process.start()
    yield process
    process.stop()
