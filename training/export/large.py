"""`make export-2b`: writes a GLM of any size as fp16 over one weight file, without ever building the model.

Weights come from a checkpoint folder or are made on the spot for benchmarks, tensor by tensor; memory is that of the
largest tensor. Prints seconds, size and peak memory as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from training.export.glm_graph import glm_folder_drawing, random_glm_drawing
from training.export.graph import Drawing
from training.export.weights import WEIGHT_FILE
from training.export.writer import GRAPH_FILES, write_graphs
from training.models.glm.config import named_config
from training.models.glm.vocabulary import load_glm_tokenizer

_SEGMENTS = 7  # template, query and five fields


def export_large(drawing: Drawing, out: Path) -> dict[str, Any]:
    """Write the fp16 graph and its weights into `out`, a new folder; return what it took."""
    out.mkdir(parents=True)
    before, started = _peak_mb(), time.perf_counter()
    write_graphs(drawing, out, ["fp16"])
    seconds = time.perf_counter() - started
    graph = out / GRAPH_FILES["fp16"]
    return {
        "seconds": round(seconds, 1),
        "peak_rss_mb": _peak_mb(),
        "peak_rss_before_mb": before,
        "graph_kb": graph.stat().st_size // 1000,
        "weights_mb": (out / WEIGHT_FILE).stat().st_size // 1_000_000,
        "nodes": len(onnx.load(graph, load_external_data=False).graph.node),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--start", type=Path, help="checkpoint folder; default: weights made on the spot")
    parser.add_argument("--size", default="glm-2b", help="sizes of made weights (default glm-2b)")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has, for made weights")
    parser.add_argument("--label-words", nargs=2, default=["yes", "no"], metavar=("YES", "NO"))
    chosen = parser.parse_args(arguments)
    print(json.dumps(export_large(_drawing(chosen), chosen.out)))
    return 0


def _drawing(chosen: argparse.Namespace) -> Drawing:
    if chosen.start is None:
        changes = {} if chosen.layers is None else {"num_layers": chosen.layers}
        return random_glm_drawing(named_config(chosen.size, segment_count=_SEGMENTS, **changes))
    tokenizer = load_glm_tokenizer(chosen.start)
    yes, no = (tokenizer.encode(word, add_special_tokens=False).ids[0] for word in chosen.label_words)
    return glm_folder_drawing(chosen.start, yes=yes, no=no)


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


if __name__ == "__main__":
    sys.exit(main())
