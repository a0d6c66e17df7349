"""Draws a GLM that answers by cloze. See `RelevanceGlm.forward`: h_sop . (E[yes] - E[no]).

The pair is part A, the sop behind it all of part B. So rows of A see `lengths - 1` columns and the sop row sees one
more: two attention calls on the same keys and values, and no matrix of who sees whom.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from training.export.graph import FLOAT, Builder, Drawing
from training.export.layout import Layout, attend, flat, layout_of, mix
from training.export.weights import Weights, folder_weights, module_weights, random_weights
from training.models.glm.config import GLMConfig
from training.models.glm.relevance import RelevanceGlm

_WORDS = "word_embeddings.weight"
_STACK = "transformer"


def glm_drawing(model: RelevanceGlm) -> Drawing:
    config = cast("GLMConfig", model.glm.config)
    return _drawing(config, module_weights(model, "glm."), yes=model.yes, no=model.no)


def glm_folder_drawing(folder: Path, *, yes: int, no: int) -> Drawing:
    """A checkpoint folder that is never built as a model. `yes`, `no`: ids of the label words."""
    return _drawing(GLMConfig.from_pretrained(folder), folder_weights(folder), yes=yes, no=no)


def random_glm_drawing(config: GLMConfig, *, yes: int = 1, no: int = 2) -> Drawing:
    """Weights made on the spot, for benchmarks."""
    return _drawing(config, random_weights(glm_shapes(config)), yes=yes, no=no)


def glm_shapes(config: GLMConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every weight by its name in a checkpoint."""
    d, inner, places = config.hidden_size, config.intermediate_size, config.max_sequence_length + 1
    shapes: dict[str, tuple[int, ...]] = {
        _WORDS: (config.vocab_size, d),
        f"{_STACK}.position_embeddings.weight": (places, d),
        f"{_STACK}.block_position_embeddings.weight": (places, d),
    }
    if config.segment_count:
        shapes[f"{_STACK}.segment_embeddings.weight"] = (config.segment_count, d)
    linears = {"attention.query_key_value": (3 * d, d), "attention.dense": (d, d)}
    linears |= {"mlp.dense_h_to_4h": (inner, d), "mlp.dense_4h_to_h": (d, inner)}
    norms = [f"{_STACK}.final_layernorm"]
    for layer in range(config.num_layers):
        prefix = f"{_STACK}.layers.{layer}"
        for name, (out, width) in linears.items():
            shapes |= {f"{prefix}.{name}.weight": (out, width), f"{prefix}.{name}.bias": (out,)}
        norms += [f"{prefix}.input_layernorm", f"{prefix}.post_attention_layernorm"]
    return shapes | {f"{norm}.{part}": (d,) for norm in norms for part in ("weight", "bias")}


def _drawing(config: GLMConfig, weights: Weights, *, yes: int, no: int) -> Drawing:
    segments = ("segment_ids",) if config.segment_count else ()
    return Drawing(
        family="glm",
        inputs=("input_ids", *segments, "lengths", "mask_index"),
        weights=weights,
        draw=lambda b: _Glm(b, config).logits(yes, no),
    )


class _Glm:
    def __init__(self, b: Builder, config: GLMConfig) -> None:
        self._b, self._config = b, config
        self._layout: Layout = layout_of(b, config.hidden_size)
        self._sep_B = b.op("Sub", "lengths", b.integer(1))
        self._sop_B = b.op("Add", self._layout.starts, self._sep_B)
        """Where in the stream the sop rows stand."""

    def logits(self, yes: int, no: int) -> str:
        b, config = self._b, self._config
        x_TD = self._embeddings()
        for layer in range(config.num_layers):
            prefix = f"{_STACK}.layers.{layer}"
            if read := b.options.last_q and layer == config.num_layers - 1:
                x_TD = self._mlp(self._attention_of_sop(x_TD, prefix), prefix)
            else:
                x_TD = self._mlp(self._attention(x_TD, prefix), prefix)
        x_BD = x_TD if read else b.op("Gather", x_TD, self._sop_B)
        wide_BD = b.convert(x_BD, of=b.stream, to=FLOAT)
        told_BD = b.norm(wide_BD, f"{_STACK}.final_layernorm", eps=config.layernorm_epsilon, to=FLOAT)
        words = b.exact(_WORDS)
        yes_D, no_D = (words[word].astype(np.float16).astype(np.float32) for word in (yes, no))
        return b.op("MatMul", told_BD, b.constant("yes_minus_no", yes_D - no_D))

    def _embeddings(self) -> str:
        """Part A counts 0, 1, 2...; the sop stands at its [MASK], first within its span."""
        b, layout = self._b, self._layout
        is_sop_BL = b.op("Equal", layout.places, b.op("Unsqueeze", self._sep_B, b.ints(1)))
        places_BL = b.op("Where", is_sop_BL, b.op("Unsqueeze", "mask_index", b.ints(1)), layout.places)
        within_BL = b.op("Cast", is_sop_BL, to=7)
        tables = {_WORDS: "input_ids", f"{_STACK}.position_embeddings.weight": places_BL}
        tables[f"{_STACK}.block_position_embeddings.weight"] = within_BL
        if self._config.segment_count:
            tables[f"{_STACK}.segment_embeddings.weight"] = "segment_ids"
        first, *others = (b.lookup(table, layout.rows(indices)) for table, indices in tables.items())
        for other in others:
            first = b.op("Add", first, other)
        return first

    def _attention(self, x_TD: str, prefix: str) -> str:
        b, layout = self._b, self._layout
        q_TD, k_TD, v_TD = self._project(x_TD, prefix)
        heads, width = self._config.num_attention_heads, self._config.hidden_size
        mixed_TD = mix(b, layout, (q_TD, k_TD, v_TD), self._sep_B, heads=heads, width=width)
        sop_BD = self._of_sop(b.op("Gather", q_TD, self._sop_B), k_TD, v_TD)
        mixed_TD = b.op("ScatterND", mixed_TD, b.op("Unsqueeze", self._sop_B, b.ints(1)), sop_BD)
        return self._add(x_TD, b.linear(mixed_TD, f"{prefix}.attention.dense"))

    def _attention_of_sop(self, x_TD: str, prefix: str) -> str:
        """[B, D]: the rows that are read, which need everybody's keys and values but nobody else's answer."""
        b = self._b
        q_BD, k_TD, v_TD = self._project(x_TD, prefix, rows=self._sop_B)
        mixed_BD = self._of_sop(q_BD, k_TD, v_TD)
        return self._add(b.op("Gather", x_TD, self._sop_B), b.linear(mixed_BD, f"{prefix}.attention.dense"))

    def _project(self, x_TD: str, prefix: str, *, rows: str | None = None) -> tuple[str, str, str]:
        """Queries of the stream or of some rows; keys and values of all of it. One weight holds the three."""
        b, d = self._b, self._config.hidden_size
        name = f"{prefix}.attention.query_key_value"
        normed_TD = self._norm(x_TD, f"{prefix}.input_layernorm")
        asking = b.op("Gather", normed_TD, rows) if rows else normed_TD
        query = b.linear(asking, name, slice(0, d))
        key, value = (b.linear(normed_TD, name, slice(n * d, (n + 1) * d)) for n in (1, 2))
        return query, key, value

    def _of_sop(self, q_BD: str, k_TD: str, v_TD: str) -> str:
        b, heads, width = self._b, self._config.num_attention_heads, self._config.hidden_size
        q_B1D = b.op("Unsqueeze", q_BD, b.ints(1))
        k_BLD, v_BLD = self._layout.spread(k_TD), self._layout.spread(v_TD)
        mixed = attend(b, q_B1D, k_BLD, v_BLD, "lengths", heads=heads, head_width=width // heads)
        return flat(b, mixed, width)

    def _mlp(self, x_TD: str, prefix: str) -> str:
        b = self._b
        normed = self._norm(x_TD, f"{prefix}.post_attention_layernorm")
        approximate = "tanh" if self._config.gelu == "tanh" else "none"
        inner = b.op("Gelu", b.linear(normed, f"{prefix}.mlp.dense_h_to_4h"), approximate=approximate)
        return self._add(x_TD, b.linear(inner, f"{prefix}.mlp.dense_4h_to_h"))

    def _norm(self, x_TD: str, prefix: str) -> str:
        b = self._b
        normed = b.norm(x_TD, prefix, eps=self._config.layernorm_epsilon, to=b.stream)
        return b.convert(normed, of=b.stream, to=b.compute)

    def _add(self, x_TD: str, step_TD: str) -> str:
        b = self._b
        return b.op("Add", x_TD, b.convert(step_TD, of=b.compute, to=b.stream))
