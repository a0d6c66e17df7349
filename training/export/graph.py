"""Builds an ONNX graph node by node: names, constants, weights in half precision, arithmetic in one of two types.

Knows no model: `bert_graph` and `glm_graph` draw with it. Weights lie in one external file as fp16; where arithmetic is
fp32 a Cast widens them, which ONNX Runtime does once, at load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.errors import UserError
from training.export.weights import WeightFile, Weights

OPSET, IR_VERSION, MIN_ONNXRUNTIME = 24, 11, "1.25"
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
Arithmetic = Literal["fp32", "fp16"]
_SHAPES = {"input_ids": ["batch", "length"], "segment_ids": ["batch", "length"]}


class UnsupportedBackboneError(UserError):
    """The exporter does not know this architecture."""


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """How a graph computes the same scores. The defaults are what pays; the rest is there to be measured."""

    arithmetic: Arithmetic = "fp32"
    """fp16 is for CUDA; the last LayerNorm and the head are fp32 in either."""
    wide_residual: bool = False
    """Keep the residual stream in fp32 where arithmetic is fp16, for models whose stream outgrows fp16."""
    fused_attention: bool = True
    """The standard `Attention` instead of its parts."""
    unpad: bool = True
    """Compute on the tokens of a batch end to end; padding exists only around attention."""
    pair_by_pair: bool = True
    """Fused attention in a loop over pairs, so that not even attention meets padding. For CPUs."""
    last_q: bool = True
    """In the last layer compute only the row that is read, where it is one."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A model ready to be drawn: `draw` adds its nodes and returns the name of the logits, fp32 [batch].

    Inputs are int64: `input_ids`, `segment_ids` [batch, length], padded on the right, and vectors [batch].
    """

    family: Literal["encoder", "glm"]
    inputs: tuple[str, ...]
    weights: Weights
    draw: Callable[[Builder], str]


def write_graph(drawing: Drawing, path: Path, stored: WeightFile, options: GraphOptions) -> None:
    """Write the graph to `path`; its weights go to `stored`, which lies in the same folder."""
    builder = Builder(stored, options)
    logits = drawing.draw(builder)
    builder.op_named("logits", "Identity", logits)
    model = builder.model(drawing.inputs)
    stored.flush()
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


class Builder:
    """A growing list of nodes; every method returns the name of the tensor it made."""

    def __init__(self, stored: WeightFile, options: GraphOptions) -> None:
        self.options, self._stored = options, stored
        self.compute = HALF if options.arithmetic == "fp16" else FLOAT
        self.stream = FLOAT if options.wide_residual else self.compute
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._made: dict[tuple[object, ...], str] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, or return what an equal one has made already. A body is never equal: it reads names outside."""
        key = (kind, inputs, len(self._nodes) if "body" in attributes else repr(attributes))
        if key not in self._made:
            self._made[key] = self.op_named(f"{kind}_{len(self._nodes)}", kind, *inputs, **attributes)
        return self._made[key]

    def op_named(self, output: str, kind: str, *inputs: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        """A small constant, kept in the graph itself."""
        self._constants.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant("i" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def integer(self, value: int) -> str:
        """A scalar."""
        return self.constant(f"scalar{value}", np.array(value, dtype=np.int64))

    def number(self, value: float, kind: int = FLOAT) -> str:
        dtype = np.float16 if kind == HALF else np.float32
        return self.constant(f"{value:g}_{np.dtype(dtype).name}", np.array(value, dtype=dtype))

    def convert(self, x: str, *, of: int, to: int) -> str:
        return x if of == to else self.op("Cast", x, to=to)

    def half(self, name: str, rows: slice | None = None) -> str:
        """A stored weight as it lies in the file."""
        tensor = self._stored.tensor(name, rows)
        self._constants.setdefault(tensor.name, tensor)
        return str(tensor.name)

    def exact(self, name: str) -> np.ndarray:
        return self._stored.exact(name)

    def weight(self, name: str, rows: slice | None = None, *, to: int) -> str:
        return self.convert(self.half(name, rows), of=HALF, to=to)

    def lookup(self, table: str, indices: str) -> str:
        # Gather first, widen after: the table itself stays in fp16 in memory.
        return self.convert(self.op("Gather", self.half(table), indices), of=HALF, to=self.stream)

    def linear(self, x: str, prefix: str, rows: slice | None = None, *, to: int | None = None) -> str:
        """x [N, D] -> [N, D'] by a PyTorch `Linear`, or by a run of its output rows."""
        kind = to or self.compute
        weight, bias = (self.weight(f"{prefix}.{part}", rows, to=kind) for part in ("weight", "bias"))
        return self.op("Gemm", x, weight, bias, transB=1)

    def norm(self, x: str, prefix: str, *, eps: float, to: int) -> str:
        gain, bias = (self.weight(f"{prefix}.{part}", to=to) for part in ("weight", "bias"))
        return self.op("LayerNormalization", x, gain, bias, axis=-1, epsilon=eps)

    def model(self, inputs: tuple[str, ...]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes,
            "cprm",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, _SHAPES.get(name, ["batch"]))
                for name in inputs
            ],
            [helper.make_tensor_value_info("logits", FLOAT, ["batch"])],
            initializer=list(self._constants.values()),
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="cprm"
        )
