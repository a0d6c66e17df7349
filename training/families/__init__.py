"""The two backbone families behind one small interface; stages know only this."""

from __future__ import annotations

from training.config import RunConfig
from training.families.base import Family
from training.families.encoder import EncoderFamily
from training.families.glm import GlmFamily

__all__ = ["Family", "open_family"]


def open_family(config: RunConfig) -> Family:
    """Read tokenizer and start weights of the configured family."""
    if config.family == "glm":
        return GlmFamily(config.start, label_words=config.label_words)
    return EncoderFamily(config.start, cosine=config.start_from_cosine)
