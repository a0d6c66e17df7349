"""A trained model to the graphs of a version: one for each precision, over one weight file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.export.bert_graph import bert_drawing
from training.export.glm_graph import glm_drawing
from training.export.graph import Arithmetic, Drawing, GraphOptions, UnsupportedBackboneError, write_graph
from training.export.weights import WEIGHT_FILE, WeightFile
from training.models.base import RelevanceModel
from training.models.encoder import RelevanceEncoder
from training.models.glm.relevance import RelevanceGlm

# Triton takes model.onnx unless told otherwise.
GRAPH_FILES: dict[Arithmetic, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}


def drawing_of(model: RelevanceModel) -> Drawing:
    """Raises UnsupportedBackboneError naming a family that has no graph."""
    if isinstance(model, RelevanceEncoder):
        return bert_drawing(model)
    if isinstance(model, RelevanceGlm):
        return glm_drawing(model)
    raise UnsupportedBackboneError(f"{type(model).__name__}: the exporter knows the families encoder and glm")


def write_graphs(
    drawing: Drawing, folder: Path, precisions: Sequence[Arithmetic] = tuple(GRAPH_FILES)
) -> None:
    """One graph for each precision, and the one weight file they share."""
    with WeightFile(folder / WEIGHT_FILE, drawing.weights) as stored:
        for precision in precisions:
            # fp16 is for CUDA, where a loop over pairs would be as many small launches.
            options = GraphOptions(arithmetic=precision, pair_by_pair=precision == "fp32")
            write_graph(drawing, folder / GRAPH_FILES[precision], stored, options)
