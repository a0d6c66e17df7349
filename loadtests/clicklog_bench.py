"""Mining of a large click log, and the contexts made of it: rate, time and peak memory at two sizes.

Run: `python -m loadtests.clicklog_bench --rows 10000000`. The log is synthetic: query frequencies follow a Zipf law, a
query has a few items that it is clicked for and a tail of others, and a pair recurs as it does in a log of daily
parts. Each size is mined in a process of its own, so peak memory is that size's alone. Vectors are a stand-in that
knows each text's topic: what an embedding model costs is not measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from loadtests.record import write_result
from training.corpus.document import CorpusReport
from training.corpus.icp import IcpConfig, build_icp
from training.corpus.mining import DuckDbConfig, mine
from training.data.dataset import load_dataset

RESULT = Path("loadtests/results/clicklog.json")
RULES = IcpConfig(min_impressions=100, min_ctr=0.2)
QUERIES, ITEMS, TOPICS, DIMENSION = 2_000_000, 200_000, 2_000, 384
_CHUNK = 500_000
_CARD = {
    "name": "synthetic click log",
    "language": "en",
    "licence": "CC0-1.0",
    "item_fields": [{"name": "title", "role": "title"}],
    "labels": {"scale": [0, 1], "relevant_from": 1},
}


def write_dataset(folder: Path, rows: int, *, seed: int = 0) -> None:
    """A data set of items and clicks alone; one row in a thousand names an item that does not exist."""
    (folder / "dataset.json").write_text(json.dumps(_CARD), encoding="utf-8")
    with (folder / "items.jsonl").open("w", encoding="utf-8") as file:
        for item in range(ITEMS):
            fields = {"title": f"topic {item % TOPICS} item {item}"}
            file.write(json.dumps({"item_id": f"I{item:07d}", "fields": fields}) + "\n")
    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with (folder / "clicks.tsv").open("wb") as sink:
        sink.write(b"query\titem_id\timpressions\tclicks\n")
        for table in _tables(rows, np.random.default_rng(seed)):
            csv.write_csv(table, sink, options)


def _tables(rows: int, rng: np.random.Generator) -> Iterator[pa.Table]:
    # Flatter than 1 / rank: half of ten million rows are pairs of their own, which is what takes memory.
    frequency = np.cumsum(np.arange(1, QUERIES + 1) ** -0.8)
    texts = pa.array([f"topic {query % TOPICS} wanted {query}" for query in range(QUERIES)])
    ids = pa.array([f"I{item:07d}" for item in range(ITEMS)] + ["gone"])
    for start in range(0, rows, _CHUNK):
        count = min(_CHUNK, rows - start)
        query = np.searchsorted(frequency, rng.random(count) * frequency[-1])
        slot = rng.geometric(0.2, count) - 1
        # Items of the query's own topic, spread over it by a multiplicative hash.
        place = (query * 2_654_435_761 + slot * 40_503) % (ITEMS // TOPICS)
        item = np.where(rng.random(count) < 0.001, ITEMS, place * TOPICS + query % TOPICS)
        impressions = np.minimum(rng.zipf(1.5, count), 2_000)
        clicks = rng.binomial(impressions, np.where(slot < 3, 0.4, 0.03))
        columns = [texts.take(pa.array(query)), ids.take(pa.array(item)), impressions, clicks]
        yield pa.table(columns, names=["query", "item_id", "impressions", "clicks"])


def topic_vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Close within a topic, far between topics."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((TOPICS, DIMENSION), dtype=np.float32)
    vectors = rng.standard_normal((len(texts), DIMENSION), dtype=np.float32)
    vectors *= 0.7
    vectors += centres[[int(text.split(" ", 2)[1]) for text in texts]]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def measure(folder: Path, limits: DuckDbConfig) -> dict[str, Any]:
    """Mine once alone, then build the contexts (which mines again); peaks are of this process."""
    dataset = load_dataset(folder)
    before = _peak_mb()
    started = time.perf_counter()
    mined = mine(dataset, RULES, limits)
    mining = time.perf_counter() - started
    after_mining = _peak_mb()
    pairs, dropped = len(mined.pairs), {reason.value: count for reason, count in mined.dropped.items()}
    del mined
    started = time.perf_counter()
    report = CorpusReport()
    contexts = sum(
        1 for _ in report.documents(build_icp(dataset, RULES, embed=topic_vectors, seed=0, duckdb=limits))
    )
    return {
        "mining_s": round(mining, 2),
        "peak_rss_mb": {"before": before, "mining": after_mining, "contexts": _peak_mb()},
        "pairs_kept": pairs,
        "dropped": dropped,
        "contexts": contexts,
        "contexts_with_mining_s": round(time.perf_counter() - started, 2),
    }


def _peak_mb() -> int:
    # Not getrusage: its peak is inherited from the process that started this one.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def run_size(rows: int, limits: DuckDbConfig) -> dict[str, Any]:
    """Write a log of `rows`, measure it in a child process, remove it."""
    with tempfile.TemporaryDirectory(prefix="cprm-clicks-") as name:
        folder = Path(name)
        write_dataset(folder, rows)
        size = (folder / "clicks.tsv").stat().st_size
        command = [sys.executable, "-m", "loadtests.clicklog_bench", "--measure", name]
        child = subprocess.run(
            [*command, "--limits", limits.model_dump_json()], stdout=subprocess.PIPE, check=True
        )
    found: dict[str, Any] = json.loads(child.stdout)
    rate = round(rows / found["mining_s"])
    return {"rows": rows, "file_mb": size >> 20, "rows_per_s": rate, **found}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--memory-limit", default="512MB", help="of DuckDB")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--limits", default="{}", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure, DuckDbConfig.model_validate_json(options.limits))))
        return 0
    limits = DuckDbConfig(memory_limit=options.memory_limit, threads=options.threads)
    load = round(os.getloadavg()[0], 1)
    sizes = [run_size(rows, limits) for rows in (options.rows // 4, options.rows)]
    for size in sizes:
        print(
            f"{size['rows']:,} rows: mined in {size['mining_s']} s ({size['rows_per_s']:,} rows/s), "
            f"{size['pairs_kept']:,} pairs, {size['contexts']:,} contexts, peak MB {size['peak_rss_mb']}"
        )
    write(sizes, limits, options, load)
    return 0


def write(
    sizes: list[dict[str, Any]], limits: DuckDbConfig, options: argparse.Namespace, load: float
) -> None:
    """JSON of both sizes; the load average before tells whether the machine was shared."""
    result = {
        "load_average_before": load,
        "duckdb": limits.model_dump(mode="json"),
        "rules": RULES.model_dump(mode="json"),
        "log": {"queries": QUERIES, "items": ITEMS, "topics": TOPICS, "vector_size": DIMENSION},
        "sizes": sizes,
    }
    write_result(options.out, f"python -m loadtests.clicklog_bench --rows {options.rows}", result)


if __name__ == "__main__":
    sys.exit(main())
