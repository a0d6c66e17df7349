"""GLM in PyTorch, with the weight names of the authors' checkpoints.

Shape suffixes: B rows, S tokens, D hidden, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from training.models.glm.config import GLMConfig


class GLMModel(PreTrainedModel):
    """Pre-LN transformer with 2-D positions; part A is bidirectional, part B causal."""

    config_class = GLMConfig
    base_model_prefix = "glm"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["GLMBlock"]  # noqa: RUF012  (the name transformers reads for sharding)

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer = GLMStack(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Embedding:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.word_embeddings = cast("nn.Embedding", value)

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        segment_ids: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states [B, S, D] after the last LayerNorm.

        `position_ids` [B, 2, S]: place in part A, place within the span. `attention_mask`: `sep` [B] or [1]
        (length of part A), or a mask [B, 1, S, S] of 0 and 1.
        """
        visible = visibility(attention_mask, input_ids.shape[1])
        words_BSD = self.word_embeddings(input_ids)
        hidden: Tensor = self.transformer(words_BSD, position_ids, visible, segment_ids)
        return hidden

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        segment_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, S, V] through the tied word embeddings; arguments as in `hidden`."""
        return self.project(self.hidden(input_ids, position_ids, attention_mask, segment_ids))

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> logits [..., V]."""
        return functional.linear(hidden, self.word_embeddings.weight)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """N(0, 0.02); projections into the residual stream N(0, 0.02 / sqrt(2 N)), as Megatron has it."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            into_residual = getattr(module, "into_residual", False)
            nn.init.normal_(
                module.weight, std=std / math.sqrt(2 * self.config.num_layers) if into_residual else std
            )
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            # A segment table of zeros leaves a loaded GLM unchanged.
            nn.init.normal_(module.weight, std=0.0 if getattr(module, "starts_at_zero", False) else std)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class GLMStack(nn.Module):
    """Position tables, layers and the final LayerNorm."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        rows = config.max_sequence_length + 1
        self.embedding_dropout = nn.Dropout(config.embedding_dropout_prob)
        self.position_embeddings = nn.Embedding(rows, config.hidden_size)
        self.block_position_embeddings = nn.Embedding(rows, config.hidden_size)
        self.segment_embeddings: nn.Embedding | None = None
        if config.segment_count:
            self.segment_embeddings = nn.Embedding(config.segment_count, config.hidden_size)
            self.segment_embeddings.starts_at_zero = True  # type: ignore[assignment]
        self.layers = nn.ModuleList(GLMBlock(config) for _ in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Any = None  # set by PreTrainedModel.gradient_checkpointing_enable

    def forward(
        self, x_BSD: Tensor, position_ids: Tensor, visible: Tensor, segment_ids: Tensor | None
    ) -> Tensor:
        x_BSD = x_BSD + self.position_embeddings(position_ids[:, 0])
        x_BSD = x_BSD + self.block_position_embeddings(position_ids[:, 1])
        if self.segment_embeddings is not None and segment_ids is not None:
            x_BSD = x_BSD + self.segment_embeddings(segment_ids)
        x_BSD = self.embedding_dropout(x_BSD)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x_BSD = self._gradient_checkpointing_func(layer.__call__, x_BSD, visible)
            else:
                x_BSD = layer(x_BSD, visible)
        normed: Tensor = self.final_layernorm(x_BSD)
        return normed


class GLMBlock(nn.Module):
    """x += attention(LN(x)); x += mlp(LN(x))."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = GLMAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = GLMFeedForward(config)

    def forward(self, x_BSD: Tensor, visible: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attention(self.input_layernorm(x_BSD), visible)
        x_BSD = x_BSD + self.mlp(self.post_attention_layernorm(x_BSD))
        return x_BSD


class GLMAttention(nn.Module):
    """One projection to three contiguous thirds Q, K, V, heads contiguous within each."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout_prob
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dense.into_residual = True  # type: ignore[assignment]
        self.output_dropout = nn.Dropout(config.output_dropout_prob)

    def forward(self, x_BSD: Tensor, visible: Tensor) -> Tensor:
        qkv = self.query_key_value(x_BSD).unflatten(-1, (3, self.heads, -1))
        q_BHSK, k_BHSK, v_BHSK = qkv.permute(2, 0, 3, 1, 4)
        mixed_BHSK = functional.scaled_dot_product_attention(
            q_BHSK, k_BHSK, v_BHSK, attn_mask=visible, dropout_p=self.dropout if self.training else 0.0
        )
        out: Tensor = self.output_dropout(self.dense(mixed_BHSK.transpose(1, 2).flatten(2)))
        return out


class GLMFeedForward(nn.Module):
    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dense_4h_to_h.into_residual = True  # type: ignore[assignment]
        self.approximate = "tanh" if config.gelu == "tanh" else "none"
        self.output_dropout = nn.Dropout(config.output_dropout_prob)

    def forward(self, x_BSD: Tensor) -> Tensor:
        inner = functional.gelu(self.dense_h_to_4h(x_BSD), approximate=self.approximate)
        out: Tensor = self.output_dropout(self.dense_4h_to_h(inner))
        return out


def visibility(attention_mask: Tensor, length: int) -> Tensor:
    """Boolean [B or 1, 1, S, S], true where row i sees column j: j <= i or j < sep.

    Padding lies to the right, so no real row sees it and there is no key-padding term. The authors write
    -65504 where this hides; after the softmax both are zero, because every row sees itself.
    """
    if attention_mask.ndim == 4:
        return attention_mask.bool()
    places = torch.arange(length, device=attention_mask.device)
    causal_SS = places[None, :] <= places[:, None]
    in_part_a_BS = places[None, :] < attention_mask.reshape(-1, 1)
    return (causal_SS[None] | in_part_a_BS[:, None, :])[:, None]
