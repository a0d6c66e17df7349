"""Matching: which query or prose of a document belongs to which of its items.

The same documents as for the language objectives, read as pairs. Two losses: `contrast` embeds both sides
apart (InfoNCE with the rest of the batch as negatives; van den Oord et al. 2018), `joint` reads them together
as served pairs and ranks an item among its neighbours. Ours: a sentence encoder has no language head worth
pre-training at small budgets, and matching reaches the weights that relevance is read from (LOG.md, 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from model_repo.encoding import PairEncoder
from model_repo.spec import QUERY_SEGMENT, TEMPLATE_SEGMENT
from model_repo.text import canonical_text
from training.corpus.document import QUERY, Document, Segment
from training.models.base import RelevanceModel
from training.models.embedding import ItemVectors
from training.objectives.ranking import listwise_loss
from training.objectives.rows import IntArray

Items = Mapping[str, Mapping[str, str | list[str]]]


class MatchingConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float = Field(default=20.0, gt=0)
    """Inverse temperature of the contrast between unit vectors."""
    contrast_tokens: int = Field(default=3072, gt=0)
    """Tokens of a contrast batch: the more texts in it, the more negatives each has."""
    near_negatives: int = Field(default=2, ge=0)
    """Negatives of a joint group drawn from the item's neighbours under the embedding model."""
    far_negatives: int = Field(default=3, ge=0)
    """Negatives of a joint group drawn from all items of the corpus."""
    neighbours: int = Field(default=40, ge=1)
    """How many neighbours the near negatives are drawn from."""


@dataclass(frozen=True, slots=True)
class Match:
    """A text and the item it belongs to. `said` names the text, `of` the item.

    `without` is a field that is left out of every item beside this text: the one the text was taken from.
    """

    said: str
    of: str
    text_ids: list[int]
    without: str = ""


class MatchPool:
    """All matches of one corpus, and what must not serve as a negative.

    Documents say what belongs together; items are read with all their fields, as they are served.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        encoder: PairEncoder,
        config: MatchingConfig,
        *,
        items: Items,
        vectors: ItemVectors | None,
    ) -> None:
        """`items`: fields by id. `vectors` None: no near negatives, for a contrast alone."""
        found = [match for document in documents for match in _matches(document)]
        ids = encoder.tokenise([canonical_text(said) for said, _, _ in found])
        self.matches = [
            Match(said, of, text_ids, without)
            for (said, of, without), text_ids in zip(found, ids, strict=True)
        ]
        self._known = {(match.said, match.of) for match in self.matches} | set(_together(documents))
        self._names = list(dict.fromkeys(match.of for match in self.matches))
        fields = encoder.tokenise_items([items[name] for name in self._names])
        self._items = dict(zip(self._names, fields, strict=True))
        self._near = _neighbours(vectors(self._names), config.neighbours) if vectors else None
        self._place = {name: place for place, name in enumerate(self._names)}
        self._config, self._encoder = config, encoder

    def __len__(self) -> int:
        return len(self.matches)

    def lengths(self) -> list[int]:
        """Tokens of each match: its text and its item."""
        return [
            len(match.text_ids) + sum(map(len, self.fields(match, match.of).values()))
            for match in self.matches
        ]

    def contrast_batch(self, chosen: Sequence[Match]) -> dict[str, IntArray]:
        """Both sides as texts of their own, and `excluded` [n, n]: pairs that are no negatives."""
        excluded = [
            [
                row != column and (a.said == b.said or a.of == b.of or (a.said, b.of) in self._known)
                for column, b in enumerate(chosen)
            ]
            for row, a in enumerate(chosen)
        ]
        texts = _single([{QUERY: m.text_ids} for m in chosen], self._encoder)
        items = _single([self.fields(m, m.of) for m in chosen], self._encoder)
        sides = {f"text.{k}": v for k, v in texts.items()} | {f"item.{k}": v for k, v in items.items()}
        return sides | {"excluded": np.array(excluded)}

    def joint_batch(self, chosen: Sequence[Match], rng: np.random.Generator) -> dict[str, IntArray]:
        """Served pairs: each text with its item first, then with negatives; `gains` is 1 for the item's own."""
        pairs, gains, groups = [], [], []
        for group, match in enumerate(chosen):
            rivals = self._negatives(match, rng)
            pairs += [(match.text_ids, self.fields(match, name)) for name in (match.of, *rivals)]
            gains += [1.0, *[0.0] * len(rivals)]
            groups += [group] * (1 + len(rivals))
        arrays = self._encoder.join(pairs).collate(pad_id=self._encoder.spec.special_ids.pad)
        return arrays | {"gains": np.array(gains, np.float32), "groups": np.array(groups)}

    def fields(self, match: Match, name: str) -> dict[str, list[int]]:
        """Token ids by field of item `name` as it is read beside `match`."""
        return {field: [] if field == match.without else ids for field, ids in self._items[name].items()}

    def _negatives(self, match: Match, rng: np.random.Generator) -> list[str]:
        places = list(rng.integers(0, len(self._names), self._config.far_negatives))
        if self._near is not None and self._near.shape[1]:
            near = self._near[self._place[match.of]]
            places += list(rng.choice(near, min(self._config.near_negatives, len(near)), replace=False))
        names = {self._names[int(place)] for place in places} - {match.of}
        return [name for name in sorted(names) if (match.said, name) not in self._known]


def contrast_loss(model: RelevanceModel, batch: Mapping[str, Tensor], *, scale: float) -> Tensor:
    """Symmetric InfoNCE between the two sides of a `contrast_batch`."""
    texts_BD = model.embed(_side(batch, "text."))
    items_BD = model.embed(_side(batch, "item."))
    scores_BB = (scale * texts_BD @ items_BD.T).masked_fill(batch["excluded"], -1e4)
    own = torch.arange(len(scores_BB), device=scores_BB.device)
    return (functional.cross_entropy(scores_BB, own) + functional.cross_entropy(scores_BB.T, own)) / 2


def joint_loss(model: RelevanceModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Softmax of the relevance logit over an item and its negatives."""
    return listwise_loss(model(batch), batch["gains"], batch["groups"])


def _side(batch: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)}


def _matches(document: Document) -> Iterable[tuple[str, str, str]]:
    """(text, item, field left out): every query or prose with the item that stands nearest to it.

    A document of an item alone gives its first field against the others, so that cold items take part.
    """
    own: dict[str, list[Segment]] = {}
    places: list[tuple[int, str]] = []
    for place, segment in enumerate(document.segments):
        if segment.of:
            own.setdefault(segment.of, []).append(segment)
            places.append((place, segment.of))
    said = [(place, segment) for place, segment in enumerate(document.segments) if not segment.of]
    for place, segment in said:
        if places:
            _, of = min(places, key=lambda entry: abs(entry[0] - place))
            yield segment.text, of, ""
    if not said:
        for of, (first, *rest) in own.items():
            if rest:
                yield first.text, of, first.name


def _together(documents: Sequence[Document]) -> Iterable[tuple[str, str]]:
    for document in documents:
        items = {segment.of for segment in document.segments if segment.of}
        for segment in document.segments:
            if not segment.of:
                yield from ((segment.text, of) for of in items)


def _single(texts: Sequence[Mapping[str, list[int]]], encoder: PairEncoder) -> dict[str, IntArray]:
    """cls tokens eos for each text, under the segments of its parts."""
    special, kinds = encoder.spec.special_ids, {QUERY: QUERY_SEGMENT, **encoder.spec.segments}
    room = encoder.spec.max_tokens - 2
    rows = []
    for parts in texts:
        tokens = [(token, kinds[name]) for name, ids in parts.items() for token in ids][:room]
        rows.append([(special.cls, TEMPLATE_SEGMENT), *tokens, (special.eos, TEMPLATE_SEGMENT)])
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    real = np.arange(lengths.max()) < lengths[:, None]
    flat = np.array([pair for row in rows for pair in row], dtype=np.int64)
    input_ids = np.full(real.shape, special.pad, dtype=np.int64)
    segment_ids = np.full(real.shape, TEMPLATE_SEGMENT, dtype=np.int64)
    input_ids[real], segment_ids[real] = flat[:, 0], flat[:, 1]
    return {"input_ids": input_ids, "segment_ids": segment_ids, "lengths": lengths}


def _neighbours(vectors: npt.NDArray[np.float32], count: int) -> IntArray:
    """Places [n, count] of the most similar others; in blocks, so that memory stays n x 1024."""
    count = min(count, len(vectors) - 1)
    near = np.zeros((len(vectors), count), dtype=np.int64)
    for start in range(0, len(vectors), 1024):
        similarity = vectors[start : start + 1024] @ vectors.T
        similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))] = -np.inf
        near[start : start + 1024] = np.argpartition(-similarity, max(count - 1, 0), axis=1)[:, :count]
    return near
