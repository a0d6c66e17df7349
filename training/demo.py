"""`make demo`: train on the sample set, serve the new bundle, score test queries over HTTP, show the result.

The service runs as the process a user would start; this file knows it by its URL only.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from training.config import load_config
from training.data.dataset import Dataset

CONFIG = Path("training/configs/demo.yaml")
OUT, BUNDLES = Path("runs/demo"), Path("runs/bundles")
QUERIES, ITEMS_SHOWN = 8, 3
_READY_S = 60
_console = Console(record=True, width=110)


def main() -> int:
    """Return 0; ends by itself with DEMO_EXIT=1, else with Ctrl-C."""
    from model_repo.repository import Repository
    from training.stages.run import open_workshop, run_recipe

    started = time.perf_counter()
    config = load_config(CONFIG)
    assert config.data is not None  # the shipped config names the sample set
    shop = open_workshop(config, config.data, OUT)
    command = f"cprm-train run --config {CONFIG} --data {config.data}"
    bundle = run_recipe(shop, Repository(BUNDLES), command=command)
    _console.print(f"[dim]trained, evaluated and exported in {time.perf_counter() - started:.0f} s[/]")
    with serving(BUNDLES) as url:
        _console.print(scored_table(url, shop.dataset, bundle.name))
        _console.print(metrics_table(json.loads((OUT / "metrics.json").read_text(encoding="utf-8"))))
        _console.print(f"report   {OUT / 'report.html'}\nbundle   {bundle.path}\nservice  {url}/docs")
        _console.save_svg(str(OUT / "result.svg"), title="make demo")
        if os.environ.get("DEMO_EXIT") != "1":
            _console.print("Ctrl-C ends the service.")
            _wait_for_interrupt()
    return 0


def _wait_for_interrupt() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        signal.pause()


@contextmanager
def serving(bundles: Path) -> Iterator[str]:
    """Run `cprm-serve` on a free port until the block ends."""
    port = os.environ.get("CPRM_PORT") or str(_free_port())
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "service.cli", "--bundles", str(bundles), "--port", port]
        process = subprocess.Popen(command, stderr=log)
        try:
            _wait_until_ready(url, process)
            yield url
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode()[-4000:])
            raise
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(_READY_S * 10):
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the service was not ready within {_READY_S} s")


def scored_table(url: str, dataset: Dataset, model: str) -> Table:
    """Eight test queries, each with its best-scored items among the labelled candidates."""
    by_query: dict[str, dict[str, int]] = {}
    for pair in dataset.labels("test"):
        by_query.setdefault(pair.query, {})[pair.item_id] = pair.label
    grades = dataset.card.labels.grade_names
    table = Table(title="Test queries through POST /relevance", title_justify="left")
    for column, style in (
        ("query", "bold"),
        ("item", ""),
        ("relevance", "cyan"),
        ("model says", ""),
        ("label", ""),
    ):
        table.add_column(column, style=style)
    for query in random.Random(7).sample(sorted(by_query), QUERIES):
        labels = by_query[query]
        results = _score(url, model, query, dataset, list(labels))[:ITEMS_SHOWN]
        for row, result in enumerate(results):
            title = dataset.items[result["id"]].fields[dataset.card.item_fields[0].name]
            bar = "█" * round(10 * result["relevance"])
            label = labels[result["id"]]
            colour = "green" if label >= dataset.card.labels.relevant_from else "red"
            table.add_row(
                query if row == 0 else "", str(title), f"{result['relevance']:.2f} {bar}", result["grade"],
                f"[{colour}]{grades[label - dataset.card.labels.scale[0]]}[/]",
            )  # fmt: skip
        table.add_section()
    return table


def _score(url: str, model: str, query: str, dataset: Dataset, item_ids: list[str]) -> list[dict[str, Any]]:
    items = [{"id": item_id, "fields": dataset.items[item_id].fields} for item_id in item_ids]
    body = json.dumps({"query": query, "items": items, "model": model, "sort": True}).encode()
    request = urllib.request.Request(f"{url}/relevance", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        results: list[dict[str, Any]] = json.load(response)["results"]
    return results


def metrics_table(metrics: dict[str, Any]) -> Table:
    """The models on the whole test split."""
    table = Table(title="Test split, 95% intervals over queries", title_justify="left")
    for column in ("model", "AUC", "F1", "nDCG@10"):
        table.add_column(column)
    for name, slices in metrics["models"].items():
        cells = (slices["all"][metric] for metric in ("auc", "f1", "ndcg10"))
        table.add_row(name, *(f"{m['value']:.4g}  [dim]{m['low']:.4g} to {m['high']:.4g}[/]" for m in cells))
    return table


if __name__ == "__main__":
    sys.exit(main())
