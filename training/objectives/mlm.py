"""Masked language modelling at token level and at segment level (whole fields, whole queries)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from model_repo.spec import TEMPLATE_SEGMENT, SpecialIds
from training.objectives.rows import Row

IGNORE = -100


class MlmConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    token_rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens chosen at token level (BERT)."""
    segment_rate: float = Field(default=0.3, ge=0, le=1)
    """Share of documents masked at segment level instead: whole fields or queries, to be told from the rest."""
    max_segment_share: float = Field(default=0.5, gt=0, lt=1)
    """Most of a document that segment masking hides; beyond it too little is left to tell it from."""
    keep_rate: float = Field(default=0.1, ge=0, le=0.5)
    random_rate: float = Field(default=0.1, ge=0, le=0.5)
    """At token level 80% become [MASK], 10% a random token, 10% stay (BERT)."""


def mask_batch(
    rows: Sequence[Row],
    config: MlmConfig,
    *,
    rng: np.random.Generator,
    vocab_size: int,
    special_ids: SpecialIds,
) -> dict[str, npt.NDArray[np.int64]]:
    """Model inputs and `labels` (IGNORE where nothing is to be told), padded on the right."""
    longest = max(len(row) for row in rows)
    arrays = {
        "input_ids": np.full((len(rows), longest), special_ids.pad, dtype=np.int64),
        "segment_ids": np.full((len(rows), longest), TEMPLATE_SEGMENT, dtype=np.int64),
        "labels": np.full((len(rows), longest), IGNORE, dtype=np.int64),
    }
    for index, row in enumerate(rows):
        chosen, whole = _choose(row, config, rng)
        masked = row.input_ids.copy()
        masked[chosen] = _corrupt(masked[chosen], config, whole, rng, vocab_size, special_ids)
        arrays["input_ids"][index, : len(row)] = masked
        arrays["segment_ids"][index, : len(row)] = row.segment_ids
        arrays["labels"][index, chosen] = row.input_ids[chosen]
    return arrays | {"lengths": np.array([len(row) for row in rows], dtype=np.int64)}


def _choose(row: Row, config: MlmConfig, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], bool]:
    """(positions to hide, whether they are whole segments). At least one, never a special token."""
    positions = np.concatenate([np.arange(start, end) for start, end in row.spans])
    if len(row.spans) > 1 and rng.random() < config.segment_rate:
        limit = config.max_segment_share * len(positions)
        hidden: list[npt.NDArray[np.int64]] = []
        for index in rng.permutation(len(row.spans)):
            start, end = row.spans[int(index)]
            if sum(map(len, hidden)) + end - start <= limit:
                hidden.append(np.arange(start, end))
                if rng.random() < 0.5:
                    break
        if hidden:
            return np.concatenate(hidden), True
    count = max(1, round(config.token_rate * len(positions)))
    return rng.choice(positions, size=count, replace=False), False


def _corrupt(
    ids: npt.NDArray[np.int64],
    config: MlmConfig,
    whole: bool,
    rng: np.random.Generator,
    vocab_size: int,
    special: SpecialIds,
) -> npt.NDArray[np.int64]:
    if special.mask is None:
        raise ValueError("masked language modelling needs a [MASK] token; the spec has none")
    if whole:  # a hidden segment leaves no hint behind
        return np.full_like(ids, special.mask)
    draw = rng.random(len(ids))
    # Specials and unused slots of a BERT vocabulary lie below 1000.
    random_ids = rng.integers(min(1000, vocab_size - 1), vocab_size, size=len(ids))
    replaced = np.where(draw < config.random_rate, random_ids, special.mask)
    return np.where(draw >= 1 - config.keep_rate, ids, replaced)
