"""The two backbone families behind one small interface; stages know only this."""

from __future__ import annotations

from collections.abc import Mapping

from model_repo.encoding import PairEncoder
from training.config import ConfigError, RenderConfig, RunConfig
from training.data.dataset import Dataset
from training.families.base import Family
from training.families.encoder import EncoderFamily
from training.families.glm import GlmFamily

__all__ = ["Family", "check_lengths", "lengths_of", "open_family", "pair_encoder"]


def open_family(config: RunConfig) -> Family:
    """Read tokenizer and start weights of the configured family."""
    if config.family == "glm":
        return GlmFamily(config.start, label_words=config.label_words)
    return EncoderFamily(config.start, cosine=config.start_from_cosine)


def check_lengths(model: str, positions: int, wanted: Mapping[str, int]) -> None:
    """`wanted`: tokens by the name of their setting. Raises ConfigError for more than the model has positions."""
    for name, tokens in wanted.items():
        if tokens > positions:
            raise ConfigError(f"{name}: {tokens} tokens, but {model} has {positions} positions; lower it")


def lengths_of(config: RunConfig) -> dict[str, int]:
    """The longest input of each kind that a run reads, by the name of its setting."""
    lengths = {"render.max_tokens": config.render.max_tokens}
    if config.pretrain.objectives.get("language"):
        lengths["pretrain.max_document_tokens"] = config.pretrain.max_document_tokens
    return lengths


def pair_encoder(family: Family, dataset: Dataset, render: RenderConfig) -> PairEncoder:
    """How pairs of this data set become tokens. Raises ConfigError when the budgets do not fit."""
    try:
        return PairEncoder(family.spec(dataset, render), family.tokenizer)
    except ValueError as error:
        raise ConfigError(f"render: {error}; raise max_tokens or lower budgets") from error
