"""Sizes of a GLM under the names that `THUDM/glm-*` checkpoints use, and the sizes known by name."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class GLMConfig(PretrainedConfig):
    """GLM of "General Language Model Pretraining with Autoregressive Blank Infilling" (Du et al., ACL 2022).

    `segment_count` rows of a third table, summed at the input and starting at zero, are CPRM's own (0: no
    table). `gelu` is "tanh" as in the authors' code; "erf" moves logits by 1e-3 and is what some ports use.
    """

    model_type = (
        "glm"  # as the THUDM folders say; never registered, so transformers' own GLM-4 keeps the name
    )

    def __init__(
        self,
        *,
        num_layers: int = 24,
        vocab_size: int = 30592,
        hidden_size: int = 1024,
        num_attention_heads: int = 16,
        intermediate_size: int | None = None,
        max_sequence_length: int = 512,
        embedding_dropout_prob: float = 0.1,
        attention_dropout_prob: float = 0.1,
        output_dropout_prob: float = 0.1,
        layernorm_epsilon: float = 1e-5,
        initializer_range: float = 0.02,
        attention_scale: float = 1.0,
        pool_token: str = "cls",
        output_predict: bool = True,
        block_position_encoding: bool = True,
        relative_encoding: bool = False,
        spell_length: int | None = None,
        gelu: str = "tanh",
        segment_count: int = 0,
        **kwargs: Any,
    ) -> None:
        """Raises ValueError naming the field for what the 2021 code has but this model does not."""
        if relative_encoding or not block_position_encoding:
            raise ValueError(
                "relative_encoding must be false and block_position_encoding true: 2-D positions only"
            )
        if spell_length is not None:
            raise ValueError(f"spell_length {spell_length}: prompt tuning is not part of this model")
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size {hidden_size} is no multiple of num_attention_heads {num_attention_heads}"
            )
        if gelu not in ("tanh", "erf"):
            raise ValueError(f'gelu must be "tanh" or "erf", not {gelu!r}')
        self.num_layers = num_layers
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size or 4 * hidden_size
        self.max_sequence_length = max_sequence_length
        self.embedding_dropout_prob = embedding_dropout_prob
        self.attention_dropout_prob = attention_dropout_prob
        self.output_dropout_prob = output_dropout_prob
        self.layernorm_epsilon = layernorm_epsilon
        self.initializer_range = initializer_range
        self.attention_scale = attention_scale
        self.pool_token = pool_token
        self.output_predict = output_predict
        self.block_position_encoding = block_position_encoding
        self.relative_encoding = relative_encoding
        self.spell_length = spell_length
        self.gelu = gelu
        self.segment_count = segment_count
        # One matrix serves both ends by construction; transformers must not look for a second one to tie.
        kwargs["tie_word_embeddings"] = False
        super().__init__(**kwargs)


SIZES: dict[str, dict[str, int]] = {
    "glm-tiny": {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "max_sequence_length": 256},
    "glm-small": {"num_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "max_sequence_length": 256},
    "glm-2b": {
        "num_layers": 36,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "max_sequence_length": 1024,
        "vocab_size": 50304,
    },
}


def named_config(size: str, **changes: Any) -> GLMConfig:
    """The configuration called glm-tiny, glm-small or glm-2b. Raises ValueError for another name."""
    if size not in SIZES:
        raise ValueError(f"{size!r} is no GLM size; there are {', '.join(SIZES)}")
    return GLMConfig(**(SIZES[size] | changes))
