"""`make bench`: the service over HTTP beside a bare ONNX Runtime session on the same pairs, in one run.

The bare session knows all pairs beforehand and batches them by length on the same cores; no server can. Rounds
are interleaved, because machines drift; ratios within a round are what counts.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from loadtests.record import RESULTS, write_result
from model_repo.bundle import Bundle
from model_repo.encoding import EncodedPairs
from model_repo.repository import Repository
from model_repo.runtime import OnnxScorer, score_all
from training.data.dataset import Dataset, load_dataset
from training.demo import serving

BUNDLES, DATA = Path("model_repo/bundles"), Path("data/sample")
ROUNDS, CLIENTS, ITEMS, REQUESTS = 5, 32, 10, 64


def requests_of(dataset: Dataset) -> list[tuple[str, list[str]]]:
    """Queries of dev with ten candidates each: a search backend that scores one page."""
    by_query: dict[str, list[str]] = {}
    for pair in dataset.labels("dev"):
        by_query.setdefault(pair.query, []).append(pair.item_id)
    return [(query, items[:ITEMS]) for query, items in by_query.items()][:REQUESTS]


def bare_rate(
    bundle: Bundle, scorer: OnnxScorer, dataset: Dataset, work: list[tuple[str, list[str]]]
) -> float:
    """Pairs/s of one session over all pairs at once, batched by length; encoding included."""
    started = time.perf_counter()
    encoded = [
        bundle.encoder.encode(query, [dataset.items[i].fields for i in items]) for query, items in work
    ]
    score_all(scorer, EncodedPairs.concat(encoded))
    return len(work) * ITEMS / (time.perf_counter() - started)


async def service_rate(
    url: str, dataset: Dataset, work: list[tuple[str, list[str]]], *, cached: bool
) -> dict[str, float]:
    """Closed loop of `CLIENTS` connections: pairs/s and latency percentiles in ms."""
    headers = {} if cached else {"cache-control": "no-store"}
    bodies = [
        {"query": query, "items": [{"id": i, "fields": dataset.items[i].fields} for i in items]}
        for query, items in work
    ]
    queue = iter(bodies)
    latencies: list[float] = []

    async def one(client: httpx.AsyncClient) -> None:
        for body in queue:
            started = time.perf_counter()
            (await client.post(f"{url}/relevance", json=body, headers=headers)).raise_for_status()
            latencies.append((time.perf_counter() - started) * 1e3)

    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=CLIENTS)) as client:
        started = time.perf_counter()
        await asyncio.gather(*(one(client) for _ in range(CLIENTS)))
        elapsed = time.perf_counter() - started
    cuts = statistics.quantiles(latencies, n=100)
    return {"pairs_per_s": len(bodies) * ITEMS / elapsed, "p50_ms": cuts[49], "p99_ms": cuts[98]}


def main() -> int:
    dataset = load_dataset(DATA)
    bundle = Bundle.load(Repository(BUNDLES).resolve("miniapps"))
    work = requests_of(dataset)
    scorer = OnnxScorer(bundle)
    rounds: list[dict[str, Any]] = []
    with serving(BUNDLES) as url:
        asyncio.run(service_rate(url, dataset, work, cached=True))  # warm-up, fills the cache
        for number in range(ROUNDS):
            bare = bare_rate(bundle, scorer, dataset, work)
            live = asyncio.run(service_rate(url, dataset, work, cached=False))
            hits = asyncio.run(service_rate(url, dataset, work, cached=True))
            rounds.append({"bare_pairs_per_s": bare, "service": live, "all_hits": hits})
            print(
                f"round {number + 1}: bare {bare:.0f} pairs/s, service {live['pairs_per_s']:.0f} "
                f"(ratio {live['pairs_per_s'] / bare:.2f}), all hits {hits['pairs_per_s'] / ITEMS:.0f} requests/s"
            )
    write(rounds)
    return 0


def write(rounds: list[dict[str, Any]]) -> None:
    """JSON of every round, and the medians with their spread on the screen."""
    ratios = sorted(r["service"]["pairs_per_s"] / r["bare_pairs_per_s"] for r in rounds)
    result = {
        "scenario": f"{CLIENTS} clients x {ITEMS} items, {REQUESTS} requests a round, sample set dev queries",
        "ratio_service_to_bare": {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]},
        "rounds": rounds,
    }
    write_result(RESULTS / "bench.json", "make bench", result)
    print(
        f"service / bare session: median {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    sys.exit(main())
