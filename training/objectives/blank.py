"""Autoregressive blank infilling: GLM's objective at token, segment and document level.

Source: Du et al., ACL 2022, and the collator of the authors' code. CPRM's segments are whole fields and whole
queries where GLM has sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.models.glm.vocabulary import GLMSpecials
from training.objectives.rows import IntArray, Row


class BlankConfig(BaseModel):
    """Shares of the three modes; the defaults are those published for GLM-10B."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: float = Field(default=0.5, ge=0)
    segment: float = Field(default=0.3, ge=0)
    document: float = Field(default=0.2, ge=0)
    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens hidden at token and at segment level, reached from below."""
    mean_span: float = Field(default=3.0, gt=0)
    max_span: int = Field(default=39, ge=1)
    min_suffix: float = Field(default=0.25, gt=0, le=1)
    """Least share of a document that document level hides."""

    @model_validator(mode="after")
    def _some_mode(self) -> BlankConfig:
        if self.token + self.segment + self.document <= 0:
            raise ValueError("token, segment and document are all zero; give one of them a share")
        return self


@dataclass(frozen=True, slots=True)
class Infilled:
    """One corrupted document: part A up to `sep`, then part B. All arrays [n], `positions` [2, n]."""

    tokens: IntArray
    targets: IntArray
    loss_mask: IntArray
    positions: IntArray
    segments: IntArray
    sep: int


def infill(
    tokens: IntArray,
    spans: Sequence[tuple[int, int]],
    mask: int,
    special: GLMSpecials,
    segments: IntArray | None = None,
) -> Infilled:
    """Hide `spans` ([start, end), in the order in which part B tells them) behind `mask`.

    The mask and the sop of a span carry the segment of its first token, so that a model knows what is asked.
    """
    kinds = np.zeros_like(tokens) if segments is None else segments
    part_a: list[IntArray] = []
    kinds_a: list[IntArray] = []
    mask_place: dict[tuple[int, int], int] = {}
    end = length = 0
    for start, stop in sorted(spans):
        part_a += [tokens[end:start], np.array([mask])]
        kinds_a += [kinds[end:start], kinds[start : start + 1]]
        length += start - end
        mask_place[start, stop] = length
        length += 1
        end = stop
    part_a.append(tokens[end:])
    kinds_a.append(kinds[end:])
    part_b = [np.concatenate([[special.sop], tokens[start:stop]]) for start, stop in spans]
    told = [np.concatenate([tokens[start:stop], [special.eop]]) for start, stop in spans]
    kinds_b = [np.concatenate([kinds[start : start + 1], kinds[start:stop]]) for start, stop in spans]
    return _assemble(part_a, part_b, told, kinds_a, kinds_b, [mask_place[span] for span in spans])


def infill_suffix(
    tokens: IntArray, start: int, special: GLMSpecials, segments: IntArray | None = None
) -> Infilled:
    """Hide everything from `start` on, the final eos being the last thing to tell; there is no eop."""
    kinds = np.zeros_like(tokens) if segments is None else segments
    return _assemble(
        [tokens[:start], np.array([special.document_mask])],
        [np.concatenate([[special.sop], tokens[start:-1]])],
        [tokens[start:]],
        [kinds[:start], kinds[start : start + 1]],
        [np.concatenate([kinds[start : start + 1], kinds[start:-1]])],
        [start],
    )


def _assemble(
    part_a: list[IntArray],
    part_b: list[IntArray],
    told: list[IntArray],
    kinds_a: list[IntArray],
    kinds_b: list[IntArray],
    mask_places: list[int],
) -> Infilled:
    known = np.concatenate(part_a)
    sep = len(known)
    lengths = [len(part) for part in part_b]
    places = [np.arange(sep), *(np.full(n, place) for n, place in zip(lengths, mask_places, strict=True))]
    within = [np.zeros(sep, np.int64), *(np.arange(1, n + 1) for n in lengths)]
    return Infilled(
        tokens=np.concatenate([known, *part_b]),
        targets=np.concatenate([known, *told]),
        loss_mask=np.concatenate([np.zeros(sep, np.int64), np.ones(sum(lengths), np.int64)]),
        positions=np.stack([np.concatenate(places), np.concatenate(within)]),
        segments=np.concatenate([*kinds_a, *kinds_b]),
        sep=sep,
    )


def collate_infilled(samples: Sequence[Infilled]) -> dict[str, IntArray]:
    """Right-padded with zeros; [B, S] but for `position_ids` [B, 2, S], `sep` and `lengths` [B]."""
    longest = max(len(sample.tokens) for sample in samples)

    def padded(array: IntArray) -> IntArray:
        room = [(0, 0)] * (array.ndim - 1) + [(0, longest - array.shape[-1])]
        return np.pad(array, room)

    return {
        "input_ids": np.stack([padded(s.tokens) for s in samples]),
        "segment_ids": np.stack([padded(s.segments) for s in samples]),
        "targets": np.stack([padded(s.targets) for s in samples]),
        "loss_mask": np.stack([padded(s.loss_mask) for s in samples]),
        "position_ids": np.stack([padded(s.positions) for s in samples]),
        "sep": np.array([s.sep for s in samples], dtype=np.int64),
        "lengths": np.array([len(s.tokens) for s in samples], dtype=np.int64),
    }


def blank_batch(
    rows: Sequence[Row], config: BlankConfig, special: GLMSpecials, rng: np.random.Generator
) -> dict[str, IntArray]:
    """Draw a mode for each document, hide its spans and collate."""
    return collate_infilled([_corrupted(row, config, special, rng) for row in rows])


def _corrupted(row: Row, config: BlankConfig, special: GLMSpecials, rng: np.random.Generator) -> Infilled:
    shares = np.array([config.token, config.segment, config.document])
    mode = rng.choice(3, p=shares / shares.sum())
    if mode == 2:
        return infill_suffix(row.input_ids, draw_suffix(row, config, rng), special, row.segment_ids)
    if mode == 1 and (spans := draw_segments(row, config, rng)):
        return infill(row.input_ids, spans, special.segment_mask, special, row.segment_ids)
    return infill(row.input_ids, draw_tokens(row, config, rng), special.mask, special, row.segment_ids)


def draw_suffix(row: Row, config: BlankConfig, rng: np.random.Generator) -> int:
    """Where a suffix of at least `min_suffix` of the text begins; the cls stays."""
    text = len(row) - 1
    least = max(1, round(config.min_suffix * text))
    return int(len(row) - rng.integers(least, text + 1))


def draw_segments(row: Row, config: BlankConfig, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Whole segments in random order until `rate` is reached; never all of them, or nothing is left to tell from."""
    wanted = config.rate * len(row)
    spans: list[tuple[int, int]] = []
    for index in rng.permutation(len(row.spans))[: len(row.spans) - 1]:
        spans.append(row.spans[int(index)])
        if sum(stop - start for start, stop in spans) >= wanted:
            break
    return spans


def draw_tokens(row: Row, config: BlankConfig, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Poisson-long spans, placed uniformly with a kept token between any two, in random order."""
    room = len(row) - 2  # neither the cls nor the final eos
    lengths: list[int] = []
    while sum(lengths) < config.rate * len(row):
        length = int(rng.poisson(config.mean_span))
        if not 1 <= length <= config.max_span:
            continue
        if sum(lengths) + length + len(lengths) > room:
            break
        lengths.append(length)
    if not lengths:
        lengths = [max(1, min(room, 1))]
    # The span that reaches the rate is longer than the rest on average: in the order of drawing it would stand last.
    rng.shuffle(lengths)
    free = room - sum(lengths) - (len(lengths) - 1)
    # Stars and bars: `free` kept tokens fall uniformly into the gaps before, between and behind the spans.
    bars = np.sort(rng.choice(free + len(lengths), size=len(lengths), replace=False))
    spans, behind = [], 1
    for number, (bar, length) in enumerate(zip(bars, lengths, strict=True)):
        start = 1 + int(bar) - number + sum(lengths[:number]) + number
        spans.append((start, start + length))
        behind = start + length
    assert behind <= len(row) - 1
    return [spans[int(index)] for index in rng.permutation(len(spans))]
