"""ICP: contexts of related queries and items from the click log, neighbours close, adjacent contexts diverse.

Source: CPRM (arXiv 2412.01269), in-context pre-training; ordering by a greedy path as in Shi et al. 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from model_repo.text import canonical_text
from training.corpus.clicklog import MiningRules
from training.corpus.contexts import (
    ClickGraph,
    Nodes,
    Uses,
    Vectors,
    greedy_path,
    greedy_walk,
    members_of,
    spread,
)
from training.corpus.document import QUERY, Builder, Document, Drop, DropReason, Segment
from training.corpus.mining import DuckDbConfig, mine
from training.data.dataset import Dataset
from training.models.embedding import MINILM, Embedder

_CHUNK = 65_536
_MAX_WINDOW = 256


class IcpConfig(MiningRules):
    """Thresholds and caps of the log are inherited; those here shape the contexts."""

    embedder: str = MINILM
    """`minilm`, a checkpoint folder, or a hub name such as facebook/contriever (which is fetched)."""
    min_similarity: float = 0.2
    """Cosine under the embedding model below which a clicked pair counts as a stray click."""
    max_queries: int = Field(default=4, ge=1)
    max_items: int = Field(default=3, ge=1)
    max_uses: int = Field(default=4, ge=1)
    """Contexts in which one query or item may appear."""
    context_roles: tuple[str, ...] = ("title", "category")
    """Roles of the fields that stand for an item in a context."""


class _Pairs(NamedTuple):
    """Clicked pairs as numbers: `ends` are nodes, queries first, then items."""

    queries: list[str]
    items: list[str]
    ends: tuple[Nodes, Nodes]

    def name(self, node: int) -> str:
        return self.queries[node] if node < len(self.queries) else self.items[node - len(self.queries)]


def build_icp(
    dataset: Dataset, config: IcpConfig, *, embed: Embedder, seed: int, duckdb: DuckDbConfig | None = None
) -> Builder:
    """A context for every query and every item of the close pairs, while uses last."""
    mined = mine(dataset, config, duckdb or DuckDbConfig())
    yield from mined.drops("icp")
    if not len(mined.pairs):
        return
    pairs = _numbered(mined.pairs)
    vectors = embed([*pairs.queries, *(dataset.item_text(item_id) for item_id in pairs.items)])
    similarity = _similarity(vectors, pairs.ends)
    close = similarity >= config.min_similarity
    yield from _strays(pairs, similarity, close)
    graph = ClickGraph(
        (pairs.ends[0][close], pairs.ends[1][close]),
        similarity[close],
        queries=len(pairs.queries),
        nodes=len(vectors),
    )
    rng = np.random.default_rng(seed)
    contexts: list[Nodes] = []
    for made in _contexts(graph, vectors, pairs, config, rng):
        if isinstance(made, Drop):
            yield made
        else:
            contexts.append(made)
    # The walk leaves kin side by side.
    shuffled = (contexts[place] for place in rng.permutation(len(contexts)))
    # A context meets at most this many others.
    window = (config.max_queries + config.max_items) * (config.max_uses - 1)
    for members in spread(shuffled, window=min(window, _MAX_WINDOW)):
        path = greedy_path(members, vectors)
        segments = (s for node in path for s in _segments(dataset, pairs, int(node), config))
        yield Document("icp", pairs.name(int(members[0])), tuple(segments))


def _numbered(mined: pa.Table) -> _Pairs:
    query, item = (mined.column(name).combine_chunks().dictionary_encode() for name in ("query", "item_id"))
    queries = query.dictionary.to_pylist()
    ends = (_nodes(query, 0), _nodes(item, len(queries)))
    return _Pairs(queries, item.dictionary.to_pylist(), ends)


def _nodes(column: pa.DictionaryArray, first: int) -> Nodes:
    indices: Nodes = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return indices + first


def _similarity(vectors: Vectors, ends: tuple[Nodes, Nodes]) -> npt.NDArray[np.float32]:
    """Cosine of each pair, in chunks: all vectors of all pairs at once would be the largest array here."""
    similarity = np.empty(len(ends[0]), dtype=np.float32)
    for start in range(0, len(similarity), _CHUNK):
        part = slice(start, start + _CHUNK)
        similarity[part] = np.einsum("nd,nd->n", vectors[ends[0][part]], vectors[ends[1][part]])
    return similarity


def _strays(
    pairs: _Pairs, similarity: npt.NDArray[np.float32], close: npt.NDArray[np.bool_]
) -> Iterator[Drop]:
    for row in np.flatnonzero(~close):
        key = " | ".join(pairs.name(int(end[row])) for end in pairs.ends)
        yield Drop("icp", key, DropReason.LOW_SIMILARITY, f"cosine {similarity[row]:.2f}")


def _contexts(
    graph: ClickGraph, vectors: Vectors, pairs: _Pairs, config: IcpConfig, rng: np.random.Generator
) -> Iterator[Nodes | Drop]:
    """Each anchor of the walk with its neighbours and one step beyond them."""
    uses = Uses(len(vectors), config.max_uses)
    room = {True: config.max_queries, False: config.max_items}
    for anchor in greedy_walk(graph, rng):
        if not len(uses.free(np.array([anchor]))):
            detail = f"in {config.max_uses} contexts already"
            yield Drop("icp", pairs.name(anchor), DropReason.OVER_USED, detail)
            continue
        kind = graph.is_query(anchor)
        members = members_of(
            anchor,
            graph,
            vectors,
            uses,
            max_near=room[not kind],
            max_beyond=room[kind] - 1,
            min_similarity=config.min_similarity,
        )
        if len(members) < 2:
            yield Drop("icp", pairs.name(anchor), DropReason.ALONE, "no neighbour has uses left")
            continue
        uses.add(members)
        yield members


def _segments(dataset: Dataset, pairs: _Pairs, node: int, config: IcpConfig) -> Iterator[Segment]:
    if node < len(pairs.queries):
        yield Segment(QUERY, canonical_text(pairs.queries[node]))
        return
    fields = dataset.items[pairs.name(node)].fields
    shown = [field for field in dataset.card.item_fields if field.role in config.context_roles]
    for field in shown or dataset.card.item_fields[:1]:
        if text := canonical_text(fields.get(field.name, "")):
            yield Segment(field.name, text, pairs.name(node))
