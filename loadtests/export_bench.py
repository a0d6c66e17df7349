"""What each option of an exported graph is worth on this machine's CPU, in one run, for both families.

Run: `make bench-export`. Every variant scores the same batches of real pairs, drawn at random and padded to the
longest, on one thread; rounds are interleaved, because machines drift, and ratios within a round are what counts. Time
is the processor time of the calling thread, which neighbours on the machine stretch less than the clock. Pairs come
from MSRD where CPRM_MSRD_DIR names it, else from the sample set. Weights are the start weights: speed does not depend
on them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from loadtests.record import RESULTS, write_result
from model_repo.encoding import PairEncoder
from training.config import RenderConfig
from training.data.dataset import Dataset, load_dataset
from training.export.graph import Drawing, GraphOptions, write_graph
from training.export.int8 import derive_int8
from training.export.weights import WEIGHT_FILE, WeightFile
from training.export.writer import drawing_of
from training.families import Family
from training.families.encoder import EncoderFamily
from training.families.glm import GlmFamily
from training.rendering import PairSource

MAX_TOKENS, BATCH = 256, 32
PLAIN = GraphOptions(fused_attention=False, unpad=False, pair_by_pair=False, last_q=False)
SHIPPED = GraphOptions()
VARIANTS = {
    "plain": PLAIN,
    "plain + fused_attention": replace(PLAIN, fused_attention=True),
    "plain + unpad": replace(PLAIN, unpad=True),
    "plain + last_q": replace(PLAIN, last_q=True),
    "shipped": SHIPPED,
    "shipped - pair_by_pair": replace(SHIPPED, pair_by_pair=False),
    "shipped - fused_attention": replace(SHIPPED, fused_attention=False),
}
Batch = Mapping[str, npt.NDArray[np.int64]]


def write_variants(family: str, drawing: Drawing, folder: Path) -> dict[str, Path]:
    """Graphs of every variant over one weight file, and int8 derived from the shipped one."""
    paths: dict[str, Path] = {}
    with WeightFile(folder / WEIGHT_FILE, drawing.weights) as stored:
        for index, (name, options) in enumerate(VARIANTS.items()):
            if family == "glm" or "last_q" not in name:  # an encoder's head reads every row
                paths[name] = folder / f"{index}.onnx"
                write_graph(drawing, paths[name], stored, options)
    paths["shipped, int8"] = folder / "int8.onnx"
    derive_int8(paths["shipped"], paths["shipped, int8"])
    return paths


def batches_of(dataset: Dataset, encoder: PairEncoder, count: int) -> list[Batch]:
    """Test pairs in random order."""
    pairs = dataset.labels("test")
    chosen = np.random.default_rng(0).permutation(len(pairs))[: count * BATCH]
    encoded = PairSource(dataset, encoder).encode([pairs[place] for place in chosen])
    rows = np.arange(len(encoded)).reshape(count, -1)
    return [encoded.take(some).collate(pad_id=encoder.spec.special_ids.pad) for some in rows]


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(
    sessions: Mapping[str, ort.InferenceSession], inputs: Sequence[str], batches: Sequence[Batch], rounds: int
) -> tuple[dict[str, list[float]], dict[str, npt.NDArray[np.float32]]]:
    """Seconds of each variant by round, and its logits."""
    feeds = [{name: batch[name] for name in inputs} for batch in batches]
    logits = {  # the warm-up
        name: np.concatenate([one.run(["logits"], feed)[0] for feed in feeds])
        for name, one in sessions.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, one in sessions.items():
            started = time.thread_time()
            for feed in feeds:
                one.run(["logits"], feed)
            seconds[name].append(time.thread_time() - started)
    return seconds, logits


def table(
    seconds: Mapping[str, Sequence[float]], logits: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, dict[str, Any]]:
    """By variant: pairs/s, times faster than plain (median and spread over rounds), agreement with plain."""
    rows = {}
    for name, times in seconds.items():
        ratios = sorted(plain / time for plain, time in zip(seconds["plain"], times, strict=True))
        rows[name] = {
            "pairs_per_cpu_s": len(logits[name]) / statistics.median(times),
            "times_plain": {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]},
            "max_abs_logit": float(np.abs(logits[name] - logits["plain"]).max()),
            "spearman": float(spearmanr(logits[name], logits["plain"]).statistic),
        }
    return rows


def bench_family(name: str, family: Family, dataset: Dataset, *, batches: int, rounds: int) -> dict[str, Any]:
    encoder = PairEncoder(
        family.spec(dataset, RenderConfig(max_tokens=MAX_TOKENS, query_budget=32)), family.tokenizer
    )
    torch.manual_seed(0)
    model = family.model(segments=encoder.spec.segment_count, dropout=0.0).eval()
    model.round_to_half()
    drawing = drawing_of(model)
    work = batches_of(dataset, encoder, batches)
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_variants(name, drawing, Path(scratch))
        sessions = {variant: session(path) for variant, path in paths.items()}
        rows = table(*measure(sessions, drawing.inputs, work, rounds))
    lengths = np.concatenate([batch["lengths"] for batch in work])
    padded = sum(batch["input_ids"].size for batch in work)
    for variant, row in rows.items():
        ratio = row["times_plain"]
        print(
            f"{name:8} {variant:28} {row['pairs_per_cpu_s']:7.1f} pairs/s, "
            f"{ratio['median']:.2f} x plain ({ratio['min']:.2f} to {ratio['max']:.2f}), "
            f"logits within {row['max_abs_logit']:.1e}",
            flush=True,
        )
    return {
        "weights": family.start_weights,
        "tokens": {
            "mean": float(lengths.mean()),
            "p10_p50_p90_max": np.quantile(lengths, [0.1, 0.5, 0.9, 1.0]).tolist(),
            "share_of_padded": float(lengths.sum() / padded),
        },
        "variants": rows,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batches", type=int, default=4, help="batches of 32 pairs a round (default 4)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "export.json")
    chosen = parser.parse_args(arguments)
    dataset = load_dataset(Path(os.environ.get("CPRM_MSRD_DIR") or "data/sample"))
    families: dict[str, Family] = {
        "encoder": EncoderFamily(),
        "glm": GlmFamily("glm-small", label_words=("yes", "no")),
    }
    result = {
        "onnxruntime": ort.__version__,
        "scenario": f"{chosen.batches} batches of {BATCH} test pairs of {dataset.card.name}, in random order, at most "
        f"{MAX_TOKENS} tokens, {chosen.rounds} interleaved rounds, one thread, processor time",
        "families": {
            name: bench_family(name, family, dataset, batches=chosen.batches, rounds=chosen.rounds)
            for name, family in families.items()
        },
    }
    write_result(chosen.out, "make bench-export", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
