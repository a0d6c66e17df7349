"""Draws a BERT relevance encoder. See `RelevanceEncoder.forward`: same terms, same order."""

from __future__ import annotations

from typing import Any

from model_repo.spec import FIRST_FIELD_SEGMENT, QUERY_SEGMENT
from training.export.graph import FLOAT, Builder, Drawing, UnsupportedBackboneError
from training.export.layout import Layout, layout_of, mix
from training.export.weights import module_weights
from training.models.encoder import COSINE_EPS, RelevanceEncoder

_EMBEDDINGS = "masked_lm.bert.embeddings"


def bert_drawing(model: RelevanceEncoder) -> Drawing:
    """Raises UnsupportedBackboneError for anything but BERT with absolute positions and erf GELU."""
    config = model.masked_lm.config
    # Absent means absolute: newer transformers dropped the attribute with the other kinds.
    position = getattr(config, "position_embedding_type", "absolute")
    if (config.model_type, config.hidden_act, position) != ("bert", "gelu", "absolute"):
        raise UnsupportedBackboneError(
            f"model_type {config.model_type!r} with {config.hidden_act} and {position} positions: "
            "of the encoder family the exporter writes BERT graphs only"
        )
    return Drawing(
        family="encoder",
        inputs=("input_ids", "segment_ids", "lengths"),
        weights=module_weights(model),
        draw=lambda b: _draw(b, config),
    )


def _draw(b: Builder, config: Any) -> str:
    layout = layout_of(b, config.hidden_size)
    x_TD = _embeddings(b, layout, config.layer_norm_eps)
    for layer in range(config.num_hidden_layers):
        last = layer == config.num_hidden_layers - 1
        x_TD = _layer(b, layout, x_TD, f"masked_lm.bert.encoder.layer.{layer}", config, last=last)
    return _head(b, layout, x_TD)


def _embeddings(b: Builder, layout: Layout, eps: float) -> str:
    zeros_BL = b.op("Mul", "input_ids", b.integer(0))
    positions_T = layout.rows(b.op("Add", zeros_BL, layout.places))
    words_TD, types_TD, places_TD = (
        b.lookup(f"{_EMBEDDINGS}.{table}_embeddings.weight", indices)
        for table, indices in (
            ("word", layout.rows("input_ids")),
            ("token_type", layout.rows("segment_ids")),
            ("position", positions_T),
        )
    )
    summed_TD = b.op("Add", b.op("Add", words_TD, types_TD), places_TD)
    return b.norm(summed_TD, f"{_EMBEDDINGS}.LayerNorm", eps=eps, to=b.stream)


def _layer(b: Builder, layout: Layout, x_TD: str, prefix: str, config: Any, *, last: bool) -> str:
    """The last LayerNorm of the last layer is fp32, as the head behind it."""
    heads, eps = config.num_attention_heads, config.layer_norm_eps
    narrow_TD = b.convert(x_TD, of=b.stream, to=b.compute)
    query, key, value = (
        b.linear(narrow_TD, f"{prefix}.attention.self.{part}") for part in ("query", "key", "value")
    )
    mixed_TD = mix(b, layout, (query, key, value), "lengths", heads=heads, width=config.hidden_size)
    x_TD = _add(b, x_TD, b.linear(mixed_TD, f"{prefix}.attention.output.dense"))
    x_TD = b.norm(x_TD, f"{prefix}.attention.output.LayerNorm", eps=eps, to=b.stream)
    narrow_TD = b.convert(x_TD, of=b.stream, to=b.compute)
    inner = b.op("Gelu", b.linear(narrow_TD, f"{prefix}.intermediate.dense"), approximate="none")
    x_TD = _add(b, x_TD, b.linear(inner, f"{prefix}.output.dense"))
    to = FLOAT if last else b.stream
    return b.norm(b.convert(x_TD, of=b.stream, to=to), f"{prefix}.output.LayerNorm", eps=eps, to=to)


def _add(b: Builder, x_TD: str, step_TD: str) -> str:
    return b.op("Add", x_TD, b.convert(step_TD, of=b.compute, to=b.stream))


def _head(b: Builder, layout: Layout, x_TD: str) -> str:
    x_BLD = layout.spread(x_TD)
    query_BD = _mean(b, x_BLD, b.op("Equal", "segment_ids", b.ints(QUERY_SEGMENT)))
    item_BD = _mean(b, x_BLD, b.op("GreaterOrEqual", "segment_ids", b.ints(FIRST_FIELD_SEGMENT)))
    squares = [_row_sum(b, b.op("Mul", side, side)) for side in (query_BD, item_BD)]
    norm_B = b.op("Sqrt", b.op("Max", b.op("Mul", *squares), b.number(COSINE_EPS)))
    cosine_B = b.op("Div", _row_sum(b, b.op("Mul", query_BD, item_BD)), norm_B)
    first_BD = b.op("Gather", x_TD, layout.starts)
    inner_BD = b.op("Tanh", b.linear(first_BD, "dense", to=FLOAT))
    rest_B = b.op("Squeeze", b.linear(inner_BD, "out", to=FLOAT), b.ints(1))
    scaled_B = b.op("Mul", cosine_B, b.weight("cosine_scale", to=FLOAT))
    return b.op("Add", b.op("Add", scaled_B, b.weight("bias", to=FLOAT)), rest_B)


def _mean(b: Builder, x_BLD: str, mask_BL: str) -> str:
    """Mean [B, D] over the masked tokens; an empty mask gives zeros."""
    weights_B1L = b.op("Unsqueeze", b.op("Cast", mask_BL, to=FLOAT), b.ints(1))
    total_BD = b.op("Squeeze", b.op("MatMul", weights_B1L, x_BLD), b.ints(1))
    count_B1 = b.op("ReduceSum", weights_B1L, b.ints(2), keepdims=0)
    return b.op("Div", total_BD, b.op("Max", count_B1, b.number(1.0)))


def _row_sum(b: Builder, x_BD: str) -> str:
    return b.op("ReduceSum", x_BD, b.ints(1), keepdims=0)
