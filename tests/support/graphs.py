"""Write one graph and run it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx

from model_repo.encoding import EncodedPairs
from model_repo.runtime import OnnxScorer
from training.export.graph import Drawing, GraphOptions, write_graph
from training.export.weights import WEIGHT_FILE, WeightFile


def written(drawing: Drawing, folder: Path, options: GraphOptions | None = None) -> Path:
    """The graph's path, in a folder that is made for it."""
    folder.mkdir(parents=True)
    with WeightFile(folder / WEIGHT_FILE, drawing.weights) as stored:
        write_graph(drawing, folder / "model.onnx", stored, options or GraphOptions())
    return folder / "model.onnx"


def opened(path: Path, drawing: Drawing, *, pad_id: int = 0) -> OnnxScorer:
    return OnnxScorer.from_file(path, "fp32", drawing.inputs, pad_id)


def alone(scorer: OnnxScorer, pairs: EncodedPairs) -> np.ndarray:
    """Every pair scored by itself."""
    return np.concatenate([scorer.logits(pairs.take([row])) for row in range(len(pairs))])


def node_kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
