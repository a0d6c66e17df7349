"""A GLM whose layers start from a BERT of the same sizes, so that a small base need not learn to read from nothing.

BERT normalises behind each block, x' = LN(x + f(x)), GLM before it, r' = r + f(LN(r)). With x = g (r - m) / s + b the
step r' = r + (s / g) (f(x) + b) keeps x + f(x) = (g / s) (r' - m), so GLM's next LayerNorm sees what BERT's saw but
for two approximations: s, which differs by token, is a mean over sample texts, and g weighs the next variance too.
Pre-training heals the rest. Ours; what it is worth is in LOG.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.models.glm.model import GLMModel


@torch.no_grad()
def transplant(bert: Any, glm: GLMModel, sample: Sequence[Sequence[int]]) -> None:
    """Write words, positions and layers of `bert` (a `BertModel`) into `glm`; `sample` holds token ids of texts.

    Part A reads as BERT reads a text of the first type; the table of places within spans stays as it was but for
    row 0, part A's. Raises ValueError when a size differs.
    """
    _same_sizes(bert.config, glm.config)
    tables, stack = bert.embeddings, glm.transformer
    words = tables.word_embeddings.weight
    places = len(stack.position_embeddings.weight)
    glm.word_embeddings.weight[: len(words)] = words
    stack.position_embeddings.weight.copy_(
        tables.position_embeddings.weight[:places] + tables.token_type_embeddings.weight[0]
    )
    stack.block_position_embeddings.weight[0] = 0.0
    ids_BS, real_BS = _padded(sample)
    r_BSD = glm.word_embeddings(ids_BS) + stack.position_embeddings.weight[: ids_BS.shape[1]]
    visible = real_BS[:, None, None, :]
    before = tables.LayerNorm
    for ours, theirs in zip(stack.layers, bert.encoder.layer, strict=True):
        block: Any = ours
        heads, middle = theirs.attention.self, theirs.attention.output.LayerNorm
        _copy(block.input_layernorm, before)
        _copy(block.post_attention_layernorm, middle)
        for name in ("weight", "bias"):
            thirds = [getattr(part, name) for part in (heads.query, heads.key, heads.value)]
            getattr(block.attention.query_key_value, name).copy_(torch.cat(thirds))
        _copy(block.mlp.dense_h_to_4h, theirs.intermediate.dense)
        _copy_scaled(block.attention.dense, theirs.attention.output.dense, before, r_BSD[real_BS])
        r_BSD = r_BSD + block.attention(block.input_layernorm(r_BSD), visible)
        _copy_scaled(block.mlp.dense_4h_to_h, theirs.output.dense, middle, r_BSD[real_BS])
        r_BSD = r_BSD + block.mlp(block.post_attention_layernorm(r_BSD))
        before = theirs.output.LayerNorm
    _copy(stack.final_layernorm, before)


def _copy(ours: Any, theirs: Any) -> None:
    ours.weight.copy_(theirs.weight)
    ours.bias.copy_(theirs.bias)


def _copy_scaled(ours: nn.Linear, theirs: nn.Linear, norm: nn.LayerNorm, r_ND: Tensor) -> None:
    """The projection into the residual stream, times s / g; with it comes the bias that the norm would add."""
    scale_D = r_ND.std(-1).mean() / norm.weight
    ours.weight.copy_(theirs.weight * scale_D[:, None])
    ours.bias.copy_((theirs.bias + norm.bias) * scale_D)


def _padded(sample: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and which of them are real, [B, S]."""
    ids_BS = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in sample], batch_first=True)
    lengths = torch.tensor([len(row) for row in sample])
    return ids_BS, torch.arange(ids_BS.shape[1]) < lengths[:, None]


def _same_sizes(bert: Any, glm: Any) -> None:
    wanted = {
        "layers": (bert.num_hidden_layers, glm.num_layers),
        "width": (bert.hidden_size, glm.hidden_size),
        "heads": (bert.num_attention_heads, glm.num_attention_heads),
        "inner width": (bert.intermediate_size, glm.intermediate_size),
    }
    for name, (theirs, ours) in wanted.items():
        if theirs != ours:
            raise ValueError(f"{name}: BERT has {theirs}, GLM {ours}; layers can only start from an equal")
    if bert.vocab_size > glm.vocab_size or bert.max_position_embeddings <= glm.max_sequence_length:
        raise ValueError("GLM needs at least BERT's words and at most its positions")
