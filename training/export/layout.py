"""How the tokens of a batch lie in memory, and attention over them.

Everything but attention works on a stream [T, D] of tokens. Shape suffixes: B pairs, L longest pair, T rows of the
stream, D hidden, H heads, K head width.
"""

from __future__ import annotations

import math
from typing import Protocol

from onnx import TensorProto, helper

from training.export.graph import Builder

_HIDDEN = -65504.0


class Layout(Protocol):
    """`places`: 0, 1, ... L - 1. `starts` [B]: where in the stream a pair begins."""

    places: str
    starts: str

    def rows(self, matrix_BL: str) -> str:
        """Entries [T] of a matrix of integers, in the stream's order."""
        ...

    def spread(self, x_TD: str) -> str:
        """The stream as [B, L, D]; what stands behind a pair's end means nothing."""
        ...

    def collect(self, x_BLD: str) -> str:
        """The stream [T, D] again."""
        ...


class Padded:
    """The stream holds every pair at the length of the longest."""

    def __init__(self, b: Builder, width: int) -> None:
        self._b, self._width = b, width
        self.places = _places(b)
        self._spread = b.op("Concat", b.op("Shape", "input_ids"), b.ints(width), axis=0)
        count, length = (b.op("Squeeze", b.op("Shape", "input_ids", start=i, end=i + 1)) for i in (0, 1))
        self.starts = b.op("Mul", b.op("Range", b.integer(0), count, b.integer(1)), length)

    def rows(self, matrix_BL: str) -> str:
        return self._b.op("Reshape", matrix_BL, self._b.ints(-1))

    def spread(self, x_TD: str) -> str:
        return self._b.op("Reshape", x_TD, self._spread)

    def collect(self, x_BLD: str) -> str:
        return flat(self._b, x_BLD, self._width)


class Packed:
    """The stream holds real tokens only, pair after pair. Both ways are copies of whole rows by index."""

    def __init__(self, b: Builder, width: int) -> None:
        self._b, self._width = b, width
        self.places = _places(b)
        lengths_B1 = b.op("Unsqueeze", "lengths", b.ints(1))
        real = b.op("Reshape", b.op("Less", self.places, lengths_B1), b.ints(-1))
        slots = b.op("Range", b.integer(0), b.op("Size", "input_ids"), b.integer(1))
        self._order_T = b.op("Compress", slots, real)
        self.starts = b.op("CumSum", "lengths", b.integer(0), exclusive=1)
        # Padding repeats a pair's last token, so that no zeros need be made; attention never sees it.
        within = b.op("Min", self.places, b.op("Sub", lengths_B1, b.integer(1)))
        self._slots_BL = b.op("Add", b.op("Unsqueeze", self.starts, b.ints(1)), within)

    def rows(self, matrix_BL: str) -> str:
        return self._b.op("Gather", self._b.op("Reshape", matrix_BL, self._b.ints(-1)), self._order_T)

    def spread(self, x_TD: str) -> str:
        return self._b.op("Gather", x_TD, self._slots_BL)

    def collect(self, x_BLD: str) -> str:
        return self._b.op("Gather", flat(self._b, x_BLD, self._width), self._order_T)


def layout_of(b: Builder, width: int) -> Layout:
    return (Packed if b.options.unpad else Padded)(b, width)


def flat(b: Builder, x_BLD: str, width: int) -> str:
    """[B * L, D]. The width in figures: shape inference takes an unknown one behind Attention for zero."""
    return b.op("Reshape", x_BLD, b.ints(-1, width))


def mix(
    b: Builder, layout: Layout, qkv_TD: tuple[str, str, str], visible_B: str, *, heads: int, width: int
) -> str:
    """Attention within each pair, [T, D] from streams of queries, keys and values."""
    if b.options.unpad and b.options.fused_attention and b.options.pair_by_pair:
        return _pair_by_pair(b, qkv_TD, visible_B, heads=heads, width=width)
    q, k, v = (layout.spread(x_TD) for x_TD in qkv_TD)
    return layout.collect(attend(b, q, k, v, visible_B, heads=heads, head_width=width // heads))


def _pair_by_pair(b: Builder, qkv_TD: tuple[str, str, str], visible_B: str, *, heads: int, width: int) -> str:
    """A loop over pairs: no padding at all, and keys that stay in the cache. For CPUs; a GPU wants one call."""
    sequences = [b.op("SplitToSequence", x_TD, "lengths", axis=0) for x_TD in qkv_TD]
    shape, zero = b.ints(-1, width), b.ints(0)
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = []
    for name, sequence in zip("qkv", sequences, strict=True):
        nodes.append(node("SequenceAt", [sequence, "pair_i"], [f"pair_{name}_LD"]))
        nodes.append(node("Unsqueeze", [f"pair_{name}_LD", zero], [f"pair_{name}"]))
    nodes += [
        node("Unsqueeze", ["pair_i", zero], ["pair_index"]),
        node("Gather", [visible_B, "pair_index"], ["pair_visible"]),
        node(
            "Attention", ["pair_q", "pair_k", "pair_v", "", "", "", "pair_visible"], ["pair_mixed"],
            q_num_heads=heads, kv_num_heads=heads,
        ),
        node("Reshape", ["pair_mixed", shape], ["pair_rows"]),
        node("SequenceInsert", ["pair_before", "pair_rows"], ["pair_after"]),
        node("Identity", ["pair_go"], ["pair_go_on"]),
    ]  # fmt: skip
    rows = [helper.make_tensor_sequence_value_info(f"pair_{x}", b.compute, None) for x in ("before", "after")]
    body = helper.make_graph(
        nodes,
        "pair",
        [info("pair_i", TensorProto.INT64, []), info("pair_go", TensorProto.BOOL, []), rows[0]],
        [info("pair_go_on", TensorProto.BOOL, []), rows[1]],
    )
    empty = b.op("SequenceEmpty", dtype=b.compute)
    mixed = b.op("Loop", b.op("Size", "lengths"), "", empty, body=body)
    return b.op("Reshape", b.op("ConcatFromSequence", mixed, axis=0), shape)


def attend(
    b: Builder, q_BQD: str, k_BLD: str, v_BLD: str, visible_B: str, *, heads: int, head_width: int
) -> str:
    """[B, Q, D]: every query row sees the first `visible_B` columns."""
    if b.options.fused_attention:
        return b.op(
            "Attention", q_BQD, k_BLD, v_BLD, "", "", "", visible_B, q_num_heads=heads, kv_num_heads=heads
        )
    q_BHQK, v_BHLK = (_split(b, x, heads, [0, 2, 1, 3]) for x in (q_BQD, v_BLD))
    scores = b.op("MatMul", q_BHQK, _split(b, k_BLD, heads, [0, 2, 3, 1]))
    scaled = b.op("Mul", scores, b.number(1 / math.sqrt(head_width), b.compute))
    weights = b.op("Softmax", b.op("Add", scaled, _hide(b, visible_B)), axis=-1)
    mixed = b.op("Transpose", b.op("MatMul", weights, v_BHLK), perm=[0, 2, 1, 3])
    return b.op("Reshape", mixed, b.ints(0, 0, -1))


def _split(b: Builder, x_BLD: str, heads: int, perm: list[int]) -> str:
    return b.op("Transpose", b.op("Reshape", x_BLD, b.ints(0, 0, heads, -1)), perm=perm)


def _hide(b: Builder, visible_B: str) -> str:
    """[B, 1, 1, L]: zero for visible columns, a large negative number for the others."""
    seen_BL = b.op("Less", _places(b), b.op("Unsqueeze", visible_B, b.ints(1)))
    mask_BL = b.op("Where", seen_BL, b.number(0.0, b.compute), b.number(_HIDDEN, b.compute))
    return b.op("Unsqueeze", mask_BL, b.ints(1, 2))


def _places(b: Builder) -> str:
    length = b.op("Squeeze", b.op("Shape", "input_ids", start=1, end=2))
    return b.op("Range", b.integer(0), length, b.integer(1))
