"""Derives an int8 graph for CPUs from a written fp32 one. Bundles hold none; `make bench-export` measures it.

Activations are quantised row by row as they come, weights by output column beforehand. The usual dynamic quantisation
(onnxruntime.quantization) takes one scale for the whole batch: it is faster, but a pair's score then depends on the
company it keeps, and errs more than twice as much. The head and everything but the layers' matrices stay fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

_CONTRIB = "com.microsoft"
_STEPS = 127.0
_FLOOR = 1e-12


def derive_int8(source: Path, target: Path) -> None:
    """Read the fp32 graph `source` and write `target`, one file with its weights inside.

    Raises ValueError when the graph has no matrix to quantise.
    """
    model = onnx.load(source)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    widened = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    nodes: list[onnx.NodeProto] = []
    made: list[onnx.TensorProto] = [
        numpy_helper.from_array(np.array(1 / _STEPS, dtype=np.float32), "int8_step"),
        numpy_helper.from_array(np.array(128, dtype=np.uint8), "int8_zero"),
        numpy_helper.from_array(np.array(_FLOOR, dtype=np.float32), "int8_floor"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "int8_axis"),
    ]
    rows: set[str] = set()
    for node in graph.node:
        name = widened.get(node.input[1], "") if node.op_type == "Gemm" else ""
        if ".layer" not in name:
            nodes.append(node)
            continue
        if node.input[0] not in rows:
            rows.add(node.input[0])
            nodes += _quantise_rows(node.input[0])
        made += _quantise_weight(name, numpy_helper.to_array(stored[name]))
        nodes += _integer_product(node, name)
    if not rows:
        raise ValueError(f"{source}: has no layer whose matrices could be quantised")
    _replace(graph, nodes, made)
    model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    onnx.save(model, target)


def _quantise_rows(x: str) -> Iterator[onnx.NodeProto]:
    """x [T, D] -> uint8 around 128, and by row the number that one stands for."""
    yield helper.make_node("ReduceMax", [x, "int8_axis"], [f"{x}_max"], keepdims=1)
    yield helper.make_node("ReduceMin", [x, "int8_axis"], [f"{x}_min"], keepdims=1)
    yield helper.make_node("Neg", [f"{x}_min"], [f"{x}_deepest"])
    yield helper.make_node("Max", [f"{x}_max", f"{x}_deepest", "int8_floor"], [f"{x}_size"])
    yield helper.make_node("Div", [x, f"{x}_size"], [f"{x}_unit"])
    yield helper.make_node("QuantizeLinear", [f"{x}_unit", "int8_step", "int8_zero"], [f"{x}_int8"])


def _quantise_weight(name: str, weight: np.ndarray) -> Iterator[onnx.TensorProto]:
    """A PyTorch weight [out, in] -> int8 [in, out] and a scale for each column."""
    wide = weight.astype(np.float32)
    scale = np.maximum(np.abs(wide).max(axis=1), _FLOOR) / _STEPS
    yield numpy_helper.from_array(
        np.ascontiguousarray(np.rint(wide / scale[:, None]).T).astype(np.int8), f"{name}_int8"
    )
    yield numpy_helper.from_array(scale, f"{name}_scale")


def _integer_product(gemm: onnx.NodeProto, name: str) -> Iterator[onnx.NodeProto]:
    x, _, bias = gemm.input
    out = gemm.output[0]
    inputs = [f"{x}_int8", f"{name}_int8", "int8_step", f"{name}_scale", "int8_zero"]
    yield helper.make_node("MatMulIntegerToFloat", inputs, [f"{out}_unit"], domain=_CONTRIB)
    yield helper.make_node("Mul", [f"{out}_unit", f"{x}_size"], [f"{out}_product"])
    yield helper.make_node("Add", [f"{out}_product", bias], [out])


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], made: list[onnx.TensorProto]) -> None:
    """Put `nodes` in place of the old ones, and drop what nobody reads any more."""
    read = {name for node in nodes if node.op_type != "Cast" for name in _reads(node)}
    kept = [node for node in nodes if node.op_type != "Cast" or node.output[0] in read]
    read |= {name for node in kept for name in _reads(node)}
    tensors = [tensor for tensor in (*graph.initializer, *made) if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensors)


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names a node reads, those of its body included."""
    inner = [child for attribute in node.attribute for child in attribute.g.node]
    return set(node.input).union(*(_reads(child) for child in inner))
