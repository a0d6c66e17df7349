"""(query, items) -> named numpy arrays: the one function that training, export and serving all call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from model_repo.spec import QUERY_SEGMENT, TEMPLATE_SEGMENT, FieldPart, LiteralPart, QueryPart, RenderSpec
from model_repo.text import FieldValue, canonical_text

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """n pairs as ragged arrays; padding exists only inside `collate`.

    input_ids    int32 [tokens]   all pairs end to end
    segment_ids  uint8 [tokens]
    offsets      int64 [n + 1]    pair i is tokens[offsets[i]:offsets[i + 1]]
    truncated    uint32 [n]       bit k set: part k of `RenderSpec.text_parts` was cut
    mask_index, sep  int64 [n]    GLM only: place of [MASK], length of part A
    """

    input_ids: npt.NDArray[np.int32]
    segment_ids: npt.NDArray[np.uint8]
    offsets: IntArray
    truncated: npt.NDArray[np.uint32]
    mask_index: IntArray | None = None
    sep: IntArray | None = None

    def __len__(self) -> int:
        return len(self.truncated)

    @property
    def lengths(self) -> IntArray:
        return np.diff(self.offsets)

    def take(self, indices: Sequence[int] | IntArray) -> EncodedPairs:
        """Return the pairs at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        spans = [slice(self.offsets[row], self.offsets[row + 1]) for row in rows]
        empty = slice(0, 0)
        return EncodedPairs(
            np.concatenate([self.input_ids[span] for span in spans or [empty]]),
            np.concatenate([self.segment_ids[span] for span in spans or [empty]]),
            np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64),
            self.truncated[rows],
            None if self.mask_index is None else self.mask_index[rows],
            None if self.sep is None else self.sep[rows],
        )

    @staticmethod
    def concat(parts: Sequence[EncodedPairs]) -> EncodedPairs:
        """Join pairs that were encoded by the same spec."""
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([part.lengths for part in parts])
        return EncodedPairs(
            np.concatenate([part.input_ids for part in parts]),
            np.concatenate([part.segment_ids for part in parts]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([part.truncated for part in parts]),
            _join([part.mask_index for part in parts]),
            _join([part.sep for part in parts]),
        )

    def collate(self, *, pad_id: int) -> dict[str, IntArray]:
        """Return the graph's inputs, padded on the right: `input_ids`, `segment_ids` [n, longest], `lengths` [n]."""
        lengths = self.lengths
        real = np.arange(int(lengths.max(initial=1))) < lengths[:, None]
        input_ids = np.full(real.shape, pad_id, dtype=np.int64)
        segment_ids = np.full(real.shape, TEMPLATE_SEGMENT, dtype=np.int64)
        input_ids[real] = self.input_ids
        segment_ids[real] = self.segment_ids
        arrays = {"input_ids": input_ids, "segment_ids": segment_ids, "lengths": lengths}
        if self.mask_index is not None and self.sep is not None:
            arrays |= {"mask_index": self.mask_index, "sep": self.sep}
        return arrays


def _join(arrays: Sequence[IntArray | None]) -> IntArray | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if present else None


def fit_to_budget(lengths: Mapping[str, int], spec: RenderSpec, room: int) -> dict[str, int]:
    """Return how many tokens each field keeps so that all fit into `room`.

    A field first gets what its budget covers; room still free is lent, in template order, to fields that were cut.
    """
    kept = {name: min(lengths[name], budget) for name, budget in spec.field_budgets.items()}
    spare = room - sum(kept.values())
    for name, budgeted in kept.items():
        extra = min(lengths[name] - budgeted, spare)
        kept[name] += extra
        spare -= extra
    return kept


class PairEncoder:
    """Renders and tokenises pairs by a spec. Thread-safe; the tokenizer releases the GIL.

    Text is never read as a special token: "[SEP]" typed by a user is three ordinary tokens.
    """

    def __init__(self, spec: RenderSpec, tokenizer: Tokenizer) -> None:
        """Raises ValueError when the budgets do not fit into `spec.max_tokens`."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self.spec = spec
        self._tokenizer = tokenizer
        self._literals = {
            part.text: self.tokenise([part.text])[0]
            for part in spec.template
            if isinstance(part, LiteralPart)
        }
        self._fixed = sum(
            len(self._literals[part.text]) if isinstance(part, LiteralPart) else 1
            for part in spec.template
            if not isinstance(part, QueryPart | FieldPart)
        )
        needed = self._fixed + spec.query_budget + sum(spec.field_budgets.values())
        if needed > spec.max_tokens:
            raise ValueError(f"budgets and template need {needed} tokens, max_tokens is {spec.max_tokens}")

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts that are canonical already, in one call and without special tokens."""
        return [
            encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ]

    def tokenise_items(self, items: Sequence[Mapping[str, FieldValue]]) -> list[dict[str, list[int]]]:
        """Token ids by field for each item; a missing field is empty, an unknown one is ignored."""
        names = self.spec.field_names
        ids = self.tokenise([canonical_text(item.get(name, "")) for item in items for name in names])
        width = len(names)
        return [
            dict(zip(names, ids[row * width : (row + 1) * width], strict=True)) for row in range(len(items))
        ]

    def encode(self, query: str, items: Sequence[Mapping[str, FieldValue]]) -> EncodedPairs:
        """Encode one query against its items; the query is tokenised once."""
        (query_ids,) = self.tokenise([canonical_text(query)])
        return self.join((query_ids, item) for item in self.tokenise_items(items))

    def join(self, pairs: Iterable[tuple[list[int], Mapping[str, list[int]]]]) -> EncodedPairs:
        """Render tokenised (query, item) pairs: budget first, then the template."""
        rows = [self._render(query, item) for query, item in pairs]
        lengths = [len(row.ids) for row in rows]
        glm = any(part.kind == "sop" for part in self.spec.template)
        return EncodedPairs(
            np.fromiter(chain.from_iterable(row.ids for row in rows), dtype=np.int32, count=sum(lengths)),
            np.fromiter(
                chain.from_iterable(row.segments for row in rows), dtype=np.uint8, count=sum(lengths)
            ),
            np.fromiter(accumulate(lengths, initial=0), dtype=np.int64, count=len(rows) + 1),
            np.array([row.truncated for row in rows], dtype=np.uint32),
            np.array([row.mask_index for row in rows], dtype=np.int64) if glm else None,
            np.array([row.sep for row in rows], dtype=np.int64) if glm else None,
        )

    def truncated_names(self, bits: int) -> list[str]:
        """Names of the parts that were cut, query first."""
        return [name for index, name in enumerate(self.spec.text_parts) if bits >> index & 1]

    def _render(self, query: list[int], item: Mapping[str, list[int]]) -> _Row:
        spec = self.spec
        kept_query = query[: spec.query_budget]
        lengths = {name: len(item[name]) for name in spec.field_names}
        kept = fit_to_budget(lengths, spec, spec.max_tokens - self._fixed - len(kept_query))
        row = _Row([], [], int(len(query) > spec.query_budget))
        for index, name in enumerate(spec.field_names, start=1):
            row.truncated |= int(lengths[name] > kept[name]) << index
        for part in spec.template:
            if isinstance(part, QueryPart):
                row.add(kept_query, QUERY_SEGMENT)
            elif isinstance(part, FieldPart):
                row.add(item[part.name][: kept[part.name]], spec.segments[part.name])
            elif isinstance(part, LiteralPart):
                row.add(self._literals[part.text], TEMPLATE_SEGMENT)
            else:
                if part.kind == "mask":
                    row.mask_index = len(row.ids)
                elif part.kind == "sop":
                    row.sep = len(row.ids)
                row.add([getattr(spec.special_ids, part.kind)], TEMPLATE_SEGMENT)
        return row


@dataclass(slots=True)
class _Row:
    ids: list[int]
    segments: list[int]
    truncated: int
    mask_index: int = 0
    sep: int = 0

    def add(self, ids: list[int], segment: int) -> None:
        self.ids += ids
        self.segments += [segment] * len(ids)
