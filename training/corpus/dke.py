"""DKE: one document an item, its fields joined with several of its clicked queries.

Source: CPRM (arXiv 2412.01269), domain knowledge enhancement. Sampling and caps are ours.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from model_repo.text import canonical_text
from training.corpus.clicklog import MiningRules
from training.corpus.document import QUERY, Builder, Document, Drop, DropReason, Segment
from training.corpus.mining import DuckDbConfig, mine
from training.data.dataset import Dataset, Item


class DkeConfig(MiningRules):
    """A clicked query counts whatever its rate, and a query's items are not capped: coverage matters here."""

    min_ctr: float = Field(default=0.0, ge=0, le=1)
    max_items_per_query: int | None = Field(default=None, ge=1)
    max_pairs: int = Field(default=5_000_000, ge=1)
    max_queries: int = Field(default=4, ge=0)
    """Most clicked queries in one document."""
    copies: int = Field(default=2, ge=1)
    """Documents an item, each with its own draw of queries and field order."""
    shuffle_fields: bool = True
    """Without it a model learns the place of a field instead of its segment."""
    field_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Chance that a field other than the first is left out."""


def build_dke(
    dataset: Dataset, config: DkeConfig, *, seed: int, duckdb: DuckDbConfig | None = None
) -> Builder:
    """Items without clicks give documents of their fields alone: cold items are why DKE exists."""
    rng = np.random.default_rng(seed)
    clicked: dict[str, dict[str, int]] = {}
    if config.max_queries:
        mined = mine(dataset, config, duckdb or DuckDbConfig())
        yield from mined.drops("dke")
        columns = (mined.pairs.column(name).to_pylist() for name in ("query", "item_id", "clicks"))
        for query, item_id, clicks in zip(*columns, strict=True):
            clicked.setdefault(item_id, {})[query] = clicks
    names = [field.name for field in dataset.card.item_fields]
    for item in dataset.items.values():
        if not any(canonical_text(value) for value in item.fields.values()):
            yield Drop("dke", item.item_id, DropReason.EMPTY_ITEM, "no field holds text")
            continue
        for _ in range(config.copies):
            segments = _fields(item, names, config, rng) + _queries(
                clicked.get(item.item_id, {}), config, rng
            )
            yield Document("dke", item.item_id, tuple(segments))


def _fields(item: Item, names: list[str], config: DkeConfig, rng: np.random.Generator) -> list[Segment]:
    texts = ((name, canonical_text(item.fields.get(name, ""))) for name in names)
    segments = [Segment(name, text, item.item_id) for name, text in texts if text]
    kept = [s for index, s in enumerate(segments) if index == 0 or rng.random() >= config.field_dropout]
    if config.shuffle_fields:
        rng.shuffle(kept)
    return kept


def _queries(clicks: dict[str, int], config: DkeConfig, rng: np.random.Generator) -> list[Segment]:
    """Drawn without replacement, in proportion to clicks."""
    if not clicks:
        return []
    queries = list(clicks)
    weights = np.array([clicks[query] for query in queries], dtype=np.float64)
    count = min(config.max_queries, len(queries))
    chosen = rng.choice(len(queries), size=count, replace=False, p=weights / weights.sum())
    return [Segment(QUERY, canonical_text(queries[index])) for index in chosen]
