"""Click-log mining in Ibis expressions: DuckDB runs them here, another Ibis backend where the log is larger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import ibis
import pyarrow as pa
from ibis import Table

from training.data.pairs import Click


class ClickedPair(NamedTuple):
    query: str
    item_id: str
    clicks: int
    ctr: float


def as_table(clicks: Sequence[Click]) -> Table:
    """The log as an in-memory table."""
    columns = zip(*clicks, strict=True) if clicks else ([], [], [], [])
    types = (pa.string(), pa.string(), pa.int64(), pa.int64())
    arrays = [pa.array(column, type=kind) for column, kind in zip(columns, types, strict=True)]
    return ibis.memtable(pa.table(arrays, names=list(Click._fields)))


def clicked_pairs(log: Table, *, min_impressions: int, min_ctr: float) -> Table:
    """Pairs shown and clicked often enough, most clicked first; order is total, so results repeat."""
    totals = log.group_by(["query", "item_id"]).aggregate(
        impressions=log.impressions.sum(), clicks=log.clicks.sum()
    )
    rated = totals.mutate(ctr=totals.clicks / totals.impressions)
    kept = rated.filter((rated.impressions >= min_impressions) & (rated.ctr >= min_ctr) & (rated.clicks > 0))
    return kept.select("query", "item_id", "clicks", "ctr").order_by(
        [ibis.desc("clicks"), ibis.desc("ctr"), "query", "item_id"]
    )


def fetch(pairs: Table) -> list[ClickedPair]:
    """Run the expression on DuckDB."""
    table = ibis.duckdb.connect().to_pyarrow(pairs)
    return [ClickedPair(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]
