"""Blank infilling: what every draw keeps to, and that nothing is lost."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from training.models.glm.vocabulary import GLMSpecials
from training.objectives.blank import (
    BlankConfig,
    blank_batch,
    draw_segments,
    draw_suffix,
    draw_tokens,
    infill,
    infill_suffix,
)
from training.objectives.rows import Row

SPECIAL = GLMSpecials(cls=1, mask=2, eos=3, sop=4, eop=5, segment_mask=6, document_mask=7)
SEEDS = st.integers(0, 2**32 - 1)
ONLY_TOKENS, ONLY_SEGMENTS, ONLY_DOCUMENT = (
    BlankConfig(token=token, segment=segment, document=document)
    for token, segment, document in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
)


@st.composite
def rows(draw: st.DrawFn, *, least_segments: int = 1) -> Row:
    """cls, segments of 1 to 20 tokens that all differ, eos."""
    lengths = draw(st.lists(st.integers(1, 20), min_size=least_segments, max_size=8))
    return row_of(lengths)


def row_of(lengths: list[int]) -> Row:
    ends = np.cumsum(lengths) + 1
    spans = tuple((int(end) - length, int(end)) for end, length in zip(ends, lengths, strict=True))
    tokens = np.array([SPECIAL.cls, *range(100, 100 + sum(lengths)), SPECIAL.eos])
    kinds = np.array([0, *(2 + n for n, length in enumerate(lengths) for _ in range(length)), 0])
    return Row(tokens, kinds, spans)


def share(spans: list[tuple[int, int]], row: Row) -> float:
    return sum(stop - start for start, stop in spans) / len(row)


def told(arrays: dict[str, np.ndarray], index: int) -> list[list[int]]:
    """Targets of part B of one row, cut behind every eop."""
    targets = arrays["targets"][index][arrays["loss_mask"][index] == 1]
    ends = np.flatnonzero(targets == SPECIAL.eop)
    return [part.tolist()[:-1] for part in np.split(targets, ends + 1)[:-1]]


def undone(arrays: dict[str, np.ndarray], index: int) -> list[int]:
    """The document, every mask of part A replaced by what part B tells of it."""
    sep = int(arrays["sep"][index])
    masks = {SPECIAL.mask, SPECIAL.segment_mask}
    of_mask: dict[int, list[int]] = {}
    behind = sep
    for span in told(arrays, index):
        of_mask[int(arrays["position_ids"][index, 0, behind])] = span
        behind += len(span) + 1
    text: list[int] = []
    for place, token in enumerate(arrays["input_ids"][index, :sep].tolist()):
        text += of_mask[place] if token in masks else [token]
    return text


@given(rows(), SEEDS)
def test_token_spans_keep_cls_and_eos_and_a_token_between_any_two(row: Row, seed: int) -> None:
    spans = sorted(draw_tokens(row, ONLY_TOKENS, np.random.default_rng(seed)))
    assert spans[0][0] >= 1
    assert spans[-1][1] <= len(row) - 1
    assert all(start < stop for start, stop in spans)
    assert all(left[1] < right[0] for left, right in pairwise(spans))


@given(SEEDS, st.integers(20, 120), st.sampled_from([0.05, 0.15, 0.3]))
def test_token_spans_reach_the_rate_and_stop_with_the_span_that_does(
    seed: int, length: int, rate: float
) -> None:
    row, config = row_of([length]), BlankConfig(rate=rate)
    spans = draw_tokens(row, config, np.random.default_rng(seed))
    longest = max(stop - start for start, stop in spans)
    assert rate <= share(spans, row) < rate + longest / len(row)


def test_token_spans_are_poisson_long_and_lie_anywhere() -> None:
    row, rng = row_of([60]), np.random.default_rng(0)
    spans = [span for _ in range(4000) for span in draw_tokens(row, ONLY_TOKENS, rng)]
    lengths = np.array([stop - start for start, stop in spans])
    # Poisson(3) without zero has mean 3 / (1 - exp(-3)).
    assert lengths.mean() == pytest.approx(3 / (1 - np.exp(-3)), rel=0.02)
    hidden = Counter(place for start, stop in spans for place in range(start, stop))
    inner = [hidden[place] for place in range(10, 51)]
    assert max(inner) < 1.2 * min(inner)
    left, right = (sum(hidden[place] for place in half) for half in (range(1, 31), range(31, 61)))
    assert left == pytest.approx(right, rel=0.02)
    assert hidden[1] > 0
    assert hidden[60] > 0


@given(rows(least_segments=2), SEEDS)
def test_segment_spans_are_whole_segments_and_never_all_of_them(row: Row, seed: int) -> None:
    spans = draw_segments(row, ONLY_SEGMENTS, np.random.default_rng(seed))
    assert set(spans) <= set(row.spans)
    assert 1 <= len(set(spans)) == len(spans) < len(row.spans)
    enough = share(spans, row) >= ONLY_SEGMENTS.rate
    assert enough or len(spans) == len(row.spans) - 1
    assert share(spans[:-1], row) < ONLY_SEGMENTS.rate


@given(rows(), SEEDS, st.sampled_from([0.1, 0.25, 0.6, 1.0]))
def test_a_suffix_is_at_least_its_share_and_leaves_the_cls(row: Row, seed: int, least: float) -> None:
    start = draw_suffix(row, BlankConfig(min_suffix=least), np.random.default_rng(seed))
    assert start >= 1
    assert len(row) - start >= round(least * (len(row) - 1))


def test_a_suffix_has_any_length_up_to_the_whole_text() -> None:
    row, rng = row_of([19]), np.random.default_rng(0)
    lengths = Counter(len(row) - draw_suffix(row, ONLY_DOCUMENT, rng) for _ in range(4000))
    assert set(lengths) == set(range(5, 21))
    assert max(lengths.values()) < 1.5 * min(lengths.values())


@given(rows(), SEEDS, st.sampled_from([ONLY_TOKENS, ONLY_SEGMENTS]))
def test_undoing_the_corruption_gives_the_document_back(row: Row, seed: int, config: BlankConfig) -> None:
    arrays = blank_batch([row, row], config, SPECIAL, np.random.default_rng(seed))
    assert undone(arrays, 0) == row.input_ids.tolist()
    assert undone(arrays, 1) == row.input_ids.tolist()


@given(rows(), SEEDS)
def test_a_hidden_suffix_and_what_is_left_make_the_document(row: Row, seed: int) -> None:
    arrays = blank_batch([row], ONLY_DOCUMENT, SPECIAL, np.random.default_rng(seed))
    sep = int(arrays["sep"][0])
    assert arrays["input_ids"][0, sep - 1] == SPECIAL.document_mask
    suffix = arrays["targets"][0][arrays["loss_mask"][0] == 1].tolist()
    assert arrays["input_ids"][0, : sep - 1].tolist() + suffix == row.input_ids.tolist()
    assert arrays["input_ids"][0, sep:].tolist() == [SPECIAL.sop, *suffix[:-1]]


@given(rows(), SEEDS)
def test_every_token_of_part_b_keeps_the_segment_it_had(row: Row, seed: int) -> None:
    arrays = blank_batch([row], ONLY_TOKENS, SPECIAL, np.random.default_rng(seed))
    kind_of = dict(zip(row.input_ids.tolist(), row.segment_ids.tolist(), strict=True))
    for token, kind in zip(arrays["input_ids"][0].tolist(), arrays["segment_ids"][0].tolist(), strict=True):
        if token not in (SPECIAL.mask, SPECIAL.sop):
            assert kind == kind_of[token]


def test_an_infilled_document_is_exactly_these_arrays() -> None:
    row = row_of([2, 3])
    made = infill(row.input_ids, [(4, 6), (1, 2)], SPECIAL.mask, SPECIAL, row.segment_ids)
    assert made.tokens.tolist() == [1, 2, 101, 102, 2, 3, 4, 103, 104, 4, 100]
    assert made.targets.tolist() == [1, 2, 101, 102, 2, 3, 103, 104, 5, 100, 5]
    assert made.loss_mask.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert made.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 4, 4, 4, 1, 1]
    assert made.positions[1].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 1, 2]
    assert made.segments.tolist() == [0, 2, 2, 3, 3, 0, 3, 3, 3, 2, 2]
    assert made.sep == 6


def test_a_hidden_suffix_is_exactly_these_arrays() -> None:
    made = infill_suffix(row_of([2, 1]).input_ids, 2, SPECIAL)
    assert made.tokens.tolist() == [1, 100, 7, 4, 101, 102]
    assert made.targets.tolist() == [1, 100, 7, 101, 102, 3]
    assert made.positions.tolist() == [[0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3]]


def test_modes_come_in_the_shares_of_the_mix() -> None:
    config = BlankConfig(token=0.5, segment=0.3, document=0.2)
    arrays = blank_batch([row_of([6, 6, 6])] * 3000, config, SPECIAL, np.random.default_rng(0))
    modes = [
        next(
            name for name in ("segment_mask", "document_mask", "mask") if getattr(SPECIAL, name) in ids[:sep]
        )
        for ids, sep in zip(arrays["input_ids"], arrays["sep"], strict=True)
    ]
    found = {name: count / 3000 for name, count in Counter(modes).items()}
    assert found == pytest.approx({"mask": 0.5, "segment_mask": 0.3, "document_mask": 0.2}, abs=0.03)


def test_the_same_seed_hides_the_same() -> None:
    first, second, other = (
        blank_batch([row_of([9, 9])] * 4, BlankConfig(), SPECIAL, np.random.default_rng(seed))
        for seed in (5, 5, 6)
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["input_ids"], other["input_ids"])


def test_a_mix_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="all zero"):
        BlankConfig(token=0, segment=0, document=0)
