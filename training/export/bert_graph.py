"""Writes the ONNX graph of a BERT relevance encoder straight from its weights.

Weights are stored once, in fp16, and widened by Cast nodes (ONNX Runtime folds those at load); all arithmetic
is fp32. Attention is the standard `Attention`-24 with `nonpad_kv_seqlen`, so padding changes no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_repo.spec import FIRST_FIELD_SEGMENT, QUERY_SEGMENT
from training.errors import UserError
from training.models.encoder import COSINE_EPS, RelevanceEncoder

OPSET, IR_VERSION, MIN_ONNXRUNTIME = 24, 11, "1.25"
INPUTS = ("input_ids", "segment_ids", "lengths")


class UnsupportedBackboneError(UserError):
    """The exporter does not know this architecture."""


def write_bert_graph(model: RelevanceEncoder, path: Path) -> None:
    """Write `path` with inputs `INPUTS` (int64 [B, L], [B, L], [B]) and output `logits` (fp32 [B]).

    Raises UnsupportedBackboneError for anything but BERT with absolute positions and erf GELU.
    """
    config = model.masked_lm.config
    # Absent means absolute: newer transformers dropped the attribute with the other kinds.
    position = getattr(config, "position_embedding_type", "absolute")
    if (config.model_type, config.hidden_act, position) != ("bert", "gelu", "absolute"):
        raise UnsupportedBackboneError(
            f"model_type {config.model_type!r}: the exporter writes BERT graphs only"
        )
    weights = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    graph = _Graph(weights, heads=config.num_attention_heads, eps=config.layer_norm_eps)
    x = graph.embeddings()
    for layer in range(config.num_hidden_layers):
        x = graph.layer(x, f"masked_lm.bert.encoder.layer.{layer}")
    graph.head(x)
    onnx.save(graph.model(), path)


class _Graph:
    """A growing list of nodes; every method returns the name of the tensor it made."""

    def __init__(self, weights: dict[str, np.ndarray], *, heads: int, eps: float) -> None:
        self._weights, self._heads, self._eps = weights, heads, eps
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self._constants.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant("i" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def half(self, name: str, *, transpose: bool = False) -> str:
        """A stored fp16 weight."""
        value = self._weights[name]
        return self.constant(name, np.ascontiguousarray(value.T if transpose else value).astype(np.float16))

    def weight(self, name: str, *, transpose: bool = False) -> str:
        """The same, widened."""
        return self.op("Cast", self.half(name, transpose=transpose), to=TensorProto.FLOAT)

    def linear(self, x: str, prefix: str) -> str:
        product = self.op("MatMul", x, self.weight(f"{prefix}.weight", transpose=True))
        return self.op("Add", product, self.weight(f"{prefix}.bias"))

    def norm(self, x: str, prefix: str) -> str:
        gain, bias = self.weight(f"{prefix}.weight"), self.weight(f"{prefix}.bias")
        return self.op("LayerNormalization", x, gain, bias, axis=-1, epsilon=self._eps)

    def lookup(self, table: str, indices: str) -> str:
        # Gather first, widen after: the table itself stays in fp16 in memory.
        name = f"masked_lm.bert.embeddings.{table}_embeddings.weight"
        return self.op("Cast", self.op("Gather", self.half(name), indices), to=TensorProto.FLOAT)

    def embeddings(self) -> str:
        length = self.op("Squeeze", self.op("Shape", "input_ids", start=1, end=2))
        zero, one = (self.constant(f"scalar{v}", np.array(v, dtype=np.int64)) for v in (0, 1))
        positions = self.op("Range", zero, length, one)
        words = self.op("Add", self.lookup("word", "input_ids"), self.lookup("token_type", "segment_ids"))
        summed = self.op("Add", words, self.lookup("position", positions))
        return self.norm(summed, "masked_lm.bert.embeddings.LayerNorm")

    def layer(self, x: str, prefix: str) -> str:
        query, key, value = (
            self.linear(x, f"{prefix}.attention.self.{part}") for part in ("query", "key", "value")
        )
        context = self.op(
            "Attention", query, key, value, "", "", "", "lengths",
            q_num_heads=self._heads, kv_num_heads=self._heads,
        )  # fmt: skip
        attended = self.op("Add", x, self.linear(context, f"{prefix}.attention.output.dense"))
        x = self.norm(attended, f"{prefix}.attention.output.LayerNorm")
        inner = self.op("Gelu", self.linear(x, f"{prefix}.intermediate.dense"), approximate="none")
        return self.norm(
            self.op("Add", x, self.linear(inner, f"{prefix}.output.dense")), f"{prefix}.output.LayerNorm"
        )

    def head(self, x: str) -> None:
        """See `RelevanceEncoder.forward`; same terms, same order."""
        query = self._mean(x, self.op("Equal", "segment_ids", self.ints(QUERY_SEGMENT)))
        item = self._mean(x, self.op("GreaterOrEqual", "segment_ids", self.ints(FIRST_FIELD_SEGMENT)))
        squares = [self._row_sum(self.op("Mul", side, side)) for side in (query, item)]
        floor = self.constant("cosine_eps", np.array(COSINE_EPS, dtype=np.float32))
        norm = self.op("Sqrt", self.op("Max", self.op("Mul", *squares), floor))
        cosine = self.op("Div", self._row_sum(self.op("Mul", query, item)), norm)
        first = self.op("Gather", x, self.constant("scalar0", np.array(0, dtype=np.int64)), axis=1)
        rest = self.linear(self.op("Tanh", self.linear(first, "dense")), "out")
        scaled = self.op("Add", self.op("Mul", cosine, self.weight("cosine_scale")), self.weight("bias"))
        total = self.op("Add", scaled, self.op("Squeeze", rest, self.ints(1)))
        self._nodes.append(helper.make_node("Identity", [total], ["logits"]))

    def model(self) -> onnx.ModelProto:
        shapes: Sequence[list[str]] = (["batch", "length"], ["batch", "length"], ["batch"])
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name, shape in zip(INPUTS, shapes, strict=True)
        ]
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])
        graph = helper.make_graph(
            self._nodes, "cprm", inputs, [output], initializer=list(self._constants.values())
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="cprm"
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _mean(self, x: str, mask: str) -> str:
        """Mean over the masked tokens [B, D]; an empty mask gives zeros."""
        weights = self.op("Unsqueeze", self.op("Cast", mask, to=TensorProto.FLOAT), self.ints(1))
        total = self.op("Squeeze", self.op("MatMul", weights, x), self.ints(1))
        count = self.op("ReduceSum", weights, self.ints(2), keepdims=0)
        return self.op(
            "Div", total, self.op("Max", count, self.constant("one", np.array(1.0, dtype=np.float32)))
        )

    def _row_sum(self, x: str) -> str:
        return self.op("ReduceSum", x, self.ints(1), keepdims=0)
