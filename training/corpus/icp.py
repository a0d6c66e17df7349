"""ICP: contexts of related queries and items from the click log, neighbours close, adjacent contexts diverse.

Source: CPRM (arXiv 2412.01269), in-context pre-training; ordering by a greedy path as in Shi et al. 2023.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from model_repo.text import canonical_text
from training.corpus.clicklog import ClickedPair, as_table, clicked_pairs, fetch
from training.corpus.document import QUERY, Builder, Document, Drop, DropReason, Segment
from training.data.dataset import Dataset
from training.models.embedding import Embedder


class IcpConfig(BaseModel):
    """Defaults suit small logs; the paper's large one used impressions >= 100 and CTR >= 0.2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_impressions: int = Field(default=1, ge=1)
    min_ctr: float = Field(default=0.2, ge=0, le=1)
    min_similarity: float = 0.2
    """Cosine under the embedding model below which a clicked pair counts as a stray click."""
    max_queries: int = Field(default=4, ge=1)
    max_items: int = Field(default=3, ge=1)
    max_uses: int = Field(default=4, ge=1)
    """Contexts in which one query or item may appear."""
    context_roles: tuple[str, ...] = ("title", "category")
    """Roles of the fields that stand for an item in a context."""


_Vectors = Mapping[str, npt.NDArray[np.float32]]
_Links = dict[str, list[str]]


def build_icp(dataset: Dataset, config: IcpConfig, *, embed: Embedder, seed: int) -> Builder:
    """A context for every query and every item of the close pairs, while uses last."""
    mined = clicked_pairs(
        as_table(dataset.clicks()), min_impressions=config.min_impressions, min_ctr=config.min_ctr
    )
    pairs = fetch(mined)
    vectors = _vectors(dataset, pairs, embed)
    items_of: _Links = defaultdict(list)
    queries_of: _Links = defaultdict(list)
    for pair in pairs:
        similarity = float(vectors[_q(pair.query)] @ vectors[pair.item_id])
        if similarity < config.min_similarity:
            key = f"{pair.query} | {pair.item_id}"
            yield Drop("icp", key, DropReason.LOW_SIMILARITY, f"cosine {similarity:.2f}")
        else:
            items_of[_q(pair.query)].append(pair.item_id)
            queries_of[pair.item_id].append(_q(pair.query))
    contexts: list[tuple[str, list[str]]] = []
    for made in _contexts(items_of, queries_of, config, np.random.default_rng(seed)):
        if isinstance(made, Drop):
            yield made
        else:
            contexts.append(made)
    for key, members in _diverse(contexts):
        path = _greedy_path(members, vectors)
        yield Document("icp", key, tuple(s for member in path for s in _segments(dataset, member, config)))


def _q(query: str) -> str:
    """Queries and items share one key space; item ids never start with this."""
    return "\0" + query


def _segments(dataset: Dataset, member: str, config: IcpConfig) -> list[Segment]:
    if member.startswith("\0"):
        return [Segment(QUERY, canonical_text(member[1:]))]
    fields = dataset.items[member].fields
    shown = [field for field in dataset.card.item_fields if field.role in config.context_roles]
    texts = [(f.name, canonical_text(fields.get(f.name, ""))) for f in shown or dataset.card.item_fields[:1]]
    return [Segment(name, text, member) for name, text in texts if text]


def _vectors(dataset: Dataset, pairs: list[ClickedPair], embed: Embedder) -> _Vectors:
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    items = list(dict.fromkeys(pair.item_id for pair in pairs))
    vectors = embed([*queries, *(dataset.item_text(item_id) for item_id in items)])
    return dict(zip([*map(_q, queries), *items], vectors, strict=True))


def _contexts(
    items_of: _Links, queries_of: _Links, config: IcpConfig, rng: np.random.Generator
) -> Iterator[tuple[str, list[str]] | Drop]:
    """(key, members): each anchor with its neighbours and one step beyond them."""
    uses: Counter[str] = Counter()
    anchors = [*items_of, *queries_of]
    for index in rng.permutation(len(anchors)):
        anchor = anchors[int(index)]
        near = items_of[anchor] if anchor in items_of else queries_of[anchor]
        back = queries_of if anchor in items_of else items_of
        beyond = [other for member in near for other in back[member] if other != anchor]
        key = anchor.lstrip("\0")
        if uses[anchor] >= config.max_uses:
            yield Drop("icp", key, DropReason.OVER_USED, f"in {config.max_uses} contexts already")
            continue
        members = _cap([anchor, *near, *beyond], uses, config)
        if len(members) < 2:
            yield Drop("icp", key, DropReason.ALONE, "no neighbour has uses left")
            continue
        uses.update(members)
        yield key, members


def _cap(candidates: list[str], uses: Counter[str], config: IcpConfig) -> list[str]:
    chosen: list[str] = []
    room = {True: config.max_queries, False: config.max_items}
    for member in dict.fromkeys(candidates):
        kind = member.startswith("\0")
        if room[kind] and uses[member] < config.max_uses:
            room[kind] -= 1
            chosen.append(member)
    return chosen


def _greedy_path(members: list[str], vectors: _Vectors) -> list[str]:
    """Start at the anchor and always go to the nearest member not yet visited."""
    path, left = [members[0]], members[1:]
    while left:
        here = vectors[path[-1]]
        nearest = max(left, key=lambda member: float(vectors[member] @ here))
        left.remove(nearest)
        path.append(nearest)
    return path


def _diverse(contexts: list[tuple[str, list[str]]]) -> Iterator[tuple[str, list[str]]]:
    """Reorder so that a context shares no member with the one before, where a window of 64 allows it."""
    waiting, last = list(contexts), set[str]()
    while waiting:
        window = waiting[:64]
        index = next((i for i, (_, members) in enumerate(window) if last.isdisjoint(members)), 0)
        key, members = waiting.pop(index)
        last = set(members)
        yield key, members
