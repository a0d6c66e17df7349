"""What a job will cost and has cost, in the currency of the prices that were given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from training.teacher.prompts import Message, OutputName

# Means of the completions of data/sample, by `count_tokens`, with their keys and some room.
_OUTPUT_TOKENS: dict[OutputName, int] = {"summary": 40, "paraphrase": 40, "background": 60, "queries": 110}
_MESSAGE_TOKENS = 4
"""The chat template around a message."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a million tokens read and written."""

    per_million_in: float
    per_million_out: float

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """In the currency of the prices."""
        return (tokens_in * self.per_million_in + tokens_out * self.per_million_out) / 1e6


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of what is still to be asked; `cost` is None without prices."""

    items: int
    tokens_in: int
    tokens_out: int
    cost: float | None

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", cost about {self.cost:,.2f}"
        return f"{self.items:,} items to ask, about {self.tokens_in:,} tokens in and {self.tokens_out:,} out{cost}"


def count_tokens(text: str) -> int:
    """Roughly: a token for four bytes of UTF-8.

    Within some 20% for English with the tokenizers of today's models, too low for code and rare scripts; the
    teacher's own tokenizer is rarely at hand.
    """
    return math.ceil(len(text.encode()) / 4)


def prompt_tokens(messages: Sequence[Message]) -> int:
    """Rough tokens of one request."""
    return sum(count_tokens(message.content) + _MESSAGE_TOKENS for message in messages)


def estimate(
    requests: Iterable[Sequence[Message]], outputs: Sequence[OutputName], prices: Prices | None
) -> Estimate:
    """Prompts are counted one by one, answers taken at the usual length; thinking of the teacher is not foreseen."""
    sizes = [prompt_tokens(messages) for messages in requests]
    tokens_in, tokens_out = sum(sizes), len(sizes) * sum(_OUTPUT_TOKENS[name] for name in outputs)
    return Estimate(len(sizes), tokens_in, tokens_out, prices.cost(tokens_in, tokens_out) if prices else None)
