"""Tokenised documents: what every objective starts from. Knows documents, not who built them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_repo.encoding import PairEncoder
from model_repo.spec import QUERY_SEGMENT, TEMPLATE_SEGMENT
from model_repo.text import canonical_text
from training.corpus.document import QUERY, Document

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenised document. `spans` are its text segments as [start, end)."""

    input_ids: IntArray
    segment_ids: IntArray
    spans: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.input_ids)


def tokenise_documents(
    documents: Sequence[Document], encoder: PairEncoder, *, max_tokens: int, separate: bool
) -> list[Row]:
    """cls segment ... segment eos; long documents lose tokens from their longest segments first.

    A document whose texts have no token (invisible characters alone) gives no row: nothing could be hidden in it.

    `separate` puts an eos behind every segment, as BERT has it; GLM has one at the end only.
    """
    texts = [canonical_text(segment.text) for document in documents for segment in document.segments]
    ids = iter(encoder.tokenise(texts))
    rows = (
        _row(document, [next(ids) for _ in document.segments], encoder, max_tokens, separate)
        for document in documents
    )
    return [row for row in rows if row.spans]


def _row(
    document: Document, ids: list[list[int]], encoder: PairEncoder, max_tokens: int, separate: bool
) -> Row:
    special, segments = encoder.spec.special_ids, encoder.spec.segments
    gap = [special.eos] if separate else []
    end = 0 if separate else 1
    cap = _longest_that_fits([len(part) for part in ids], max_tokens - 1 - end - len(gap) * len(ids))
    tokens, kinds, spans = [special.cls], [TEMPLATE_SEGMENT], []
    for segment, part in zip(document.segments, ids, strict=True):
        kept = part[:cap]
        if not kept or len(tokens) + len(kept) + len(gap) + end > max_tokens:
            continue
        spans.append((len(tokens), len(tokens) + len(kept)))
        tokens += [*kept, *gap]
        kind = QUERY_SEGMENT if segment.name == QUERY else segments[segment.name]
        kinds += [kind] * len(kept) + [TEMPLATE_SEGMENT] * len(gap)
    if not separate:
        tokens, kinds = [*tokens, special.eos], [*kinds, TEMPLATE_SEGMENT]
    return Row(np.array(tokens, np.int64), np.array(kinds, np.int64), tuple(spans))


def _longest_that_fits(lengths: list[int], room: int) -> int:
    """The largest cap on every segment with which all fit into `room` tokens, at least 1."""
    low, high = 1, max([1, *lengths])
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(length, middle) for length in lengths) <= room:
            low = middle
        else:
            high = middle - 1
    return low
