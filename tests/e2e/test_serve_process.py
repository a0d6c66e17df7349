"""The service as the process users start, on the shipped bundle."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port

from model_repo.bundle import Bundle
from model_repo.repository import Repository
from training.cli import main
from training.data.dataset import Dataset

ROOT = Path(__file__).parents[2]
BUNDLES = ROOT / "model_repo" / "bundles"


class Served:
    def __init__(self, *arguments: str) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, "-m", "service.cli", "--port", str(port), *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        assert self.process.stderr is not None
        threading.Thread(target=lambda: self.log.extend(self.process.stderr or []), daemon=True).start()

    def wait_until_ready(self) -> None:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5):
                    return
            except OSError:
                assert self.process.poll() is None, self.log
                time.sleep(0.05)
        raise AssertionError(self.log)

    def metric(self, series: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        return next(float(line.removeprefix(series)) for line in lines if line.startswith(series + " "))

    def post(self, **body: Any) -> dict[str, Any]:
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/relevance", data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    service = Served("--bundles", str(BUNDLES))
    service.wait_until_ready()
    yield service
    service.process.terminate()
    assert service.process.wait(20) == 0


def test_service_and_offline_scoring_give_the_same_scores(
    served: Served, sample: Dataset, tmp_path: Path
) -> None:
    by_query: dict[str, list[str]] = {}
    for pair in sample.labels("dev")[:120]:
        by_query.setdefault(pair.query, []).append(pair.item_id)
    labels, out = tmp_path / "pairs.tsv", tmp_path / "scores.tsv"
    rows = [f"{query}\t{item}\t0" for query, items in by_query.items() for item in items]
    labels.write_text("\n".join(["query\titem_id\tlabel", *rows]) + "\n")
    bundle = Repository(BUNDLES).resolve("miniapps")
    arguments = ["--bundle", str(bundle), "--data", str(ROOT / "data/sample"), "--labels", str(labels)]
    assert main(["score", *arguments, "--out", str(out)]) == 0
    with out.open() as file:
        offline = {
            (r["query"], r["item_id"]): float(r["score"]) for r in csv.DictReader(file, delimiter="\t")
        }
    for query, items in by_query.items():
        answer = served.post(query=query, items=[{"id": i, "fields": sample.items[i].fields} for i in items])
        for result in answer["results"]:
            assert result["relevance"] == pytest.approx(offline[query, result["id"]], abs=1e-5)


def test_the_curl_of_the_readme_answers(served: Served) -> None:
    readme = (ROOT / "README.md").read_text()
    start = readme.index("curl -s localhost:8000/relevance")
    command = (
        readme[start : readme.index("```", start)]
        .replace("http://", "")
        .replace("localhost:8000", served.url.removeprefix("http://"))
    )
    answer = json.loads(
        subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
    )
    assert [result["status"] for result in answer["results"]] == ["scored", "scored"]
    assert answer["results"][0]["relevance"] > answer["results"][1]["relevance"]


def test_the_log_never_holds_a_query(served: Served) -> None:
    served.post(query="mysecretquery", items=["mysecretitem"])
    time.sleep(0.2)
    assert any('"message": "scored"' in line for line in served.log)
    assert not any("mysecret" in line for line in served.log)


def test_a_term_signal_lets_the_request_in_flight_finish() -> None:
    service = Served("--bundles", str(BUNDLES))
    service.wait_until_ready()
    answers: list[dict[str, Any]] = []
    items = [f"item number {n} with some words to make it longer" for n in range(300)]
    caller = threading.Thread(target=lambda: answers.append(service.post(query="number", items=items)))
    caller.start()
    time.sleep(0.3)
    os.kill(service.process.pid, signal.SIGTERM)
    caller.join(30)
    assert service.process.wait(20) == 0
    assert len(answers[0]["results"]) == 300
    assert all(result["status"] == "scored" for result in answers[0]["results"])


def test_work_for_a_client_that_left_is_not_done(served: Served) -> None:
    before = served.metric('cprm_dropped_pairs_total{model="miniapps"}')
    items = [" ".join(f"word{n * 7 + k}" for k in range(40)) for n in range(1000)]
    body = json.dumps({"query": "left", "items": items}).encode()
    head = "POST /relevance HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(0.5)
    for _ in range(200):
        if served.metric('cprm_dropped_pairs_total{model="miniapps"}') > before:
            break
        time.sleep(0.05)
    assert served.metric('cprm_dropped_pairs_total{model="miniapps"}') - before > 100
    assert served.metric('cprm_queue_tokens{model="miniapps"}') == 0
    assert served.post(query="still here", items=["yes"])["results"][0]["status"] == "scored"


def test_help_explains_every_setting() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "service.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert "CPRM_REDIS_URL" in result.stdout
    assert result.stdout.count("CPRM_") >= 18


def test_a_wrong_setting_is_named() -> None:
    environment = {**os.environ, "CPRM_PORT": "many"}
    command = [sys.executable, "-m", "service.cli"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert result.returncode == 2
    assert "CPRM_PORT" in result.stderr


@pytest.mark.parametrize("name", Repository(BUNDLES).names())
def test_every_shipped_bundle_is_whole_and_small_enough(name: str) -> None:
    bundle = Bundle.load(Repository(BUNDLES).resolve(name))
    assert sum(path.stat().st_size for path in bundle.path.iterdir()) <= 50_000_000
    assert bundle.manifest.graphs["fp32"].agreement.max_abs_relevance <= 2e-3
