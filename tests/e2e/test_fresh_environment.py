"""The service in a virtual environment of its own, without torch and transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import free_port

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def test_the_service_installs_and_serves_without_torch(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    install = ["-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(ROOT)]
    subprocess.run([str(python), *install], check=True, env={**os.environ, "PIP_NO_CACHE_DIR": "1"})
    for module in ("torch", "transformers", "onnx", "sklearn"):
        found = subprocess.run(
            [str(python), "-c", f"import {module}"], capture_output=True, check=False, cwd=tmp_path
        )
        assert found.returncode == 1, f"{module} is installed"
    port = free_port()
    serve = [
        str(tmp_path / "venv/bin/cprm-serve"),
        "--bundles",
        str(ROOT / "model_repo/bundles"),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(serve, cwd=tmp_path)
    try:
        answer = _ask(f"http://127.0.0.1:{port}/relevance", process)
        assert answer["results"][0]["status"] == "scored"
        assert answer["numerics"].startswith("fp32/ort-")
    finally:
        process.terminate()
        assert process.wait(20) == 0


def _ask(url: str, process: subprocess.Popen[bytes]) -> dict[str, list[dict[str, str]] | str]:
    body = json.dumps({"query": "pay my electric", "items": ["electricity bills"]}).encode()
    for _ in range(300):
        assert process.poll() is None
        try:
            request = urllib.request.Request(url, body, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=30) as response:
                answer: dict[str, list[dict[str, str]] | str] = json.load(response)
            return answer
        except OSError:
            time.sleep(0.1)
    raise AssertionError("no answer within 30 s")
