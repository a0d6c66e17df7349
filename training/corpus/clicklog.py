"""Click-log mining as Ibis expressions. Knows no backend: DuckDB runs them here, Spark where the log is larger.

Only operations that both have are used. A log is a table with `query`, `item_id`, `impressions`, `clicks` and
`bad_line` (a reader saw that cells were missing or too many); counts may be text.
"""

from __future__ import annotations

import ibis
from ibis import Table, Value
from pydantic import BaseModel, ConfigDict, Field

from training.corpus.document import DropReason

KEPT = "kept"
# More than any log counts; sums of such counts stay within 64 bits.
_DIGITS = r"^[0-9]{1,12}$"
_MAX_COUNT = 10**12


class MiningRules(BaseModel):
    """Which pairs of a log count. Defaults suit small logs; large ones take impressions >= 100 and CTR >= 0.2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_impressions: int = Field(default=1, ge=1)
    """Exposure below which a click-through rate means nothing."""
    min_clicks: int = Field(default=1, ge=1)
    min_ctr: float = Field(default=0.2, ge=0, le=1)
    max_items_per_query: int | None = Field(default=64, ge=1)
    """Most clicked items kept for one query; null keeps all."""
    max_queries_per_item: int | None = Field(default=64, ge=1)
    """Most clicked queries kept for one item; null keeps all."""
    max_pairs: int = Field(default=1_000_000, ge=1)
    """Pairs in all, most clicked first: what leaves the backend is bounded whatever the log holds."""


def judged_rows(log: Table, known: Table) -> Table:
    """Rows with whole counts and `reason`, which is null where a row is good.

    `known` has each usable `item_id` once.
    """
    usable = known.select(known_id="item_id")
    # Ids may be numbers in Parquet.
    log = log.mutate(query=log["query"].cast("string"), item_id=log.item_id.cast("string"))
    joined = log.left_join(usable, log.item_id == usable.known_id)
    counted = joined.mutate(impressions=_count(joined.impressions), clicks=_count(joined.clicks))
    reason = ibis.cases(
        (counted.bad_line, DropReason.BAD_LINE.value),
        (counted["query"].fill_null("").strip() == "", DropReason.EMPTY_QUERY.value),
        (counted.known_id.isnull(), DropReason.UNKNOWN_ITEM.value),
        (counted.impressions.isnull() | counted.clicks.isnull(), DropReason.BAD_COUNT.value),
        (counted.clicks > counted.impressions, DropReason.CLICKS_EXCEED_IMPRESSIONS.value),
    )
    return counted.select("query", "item_id", "impressions", "clicks", reason=reason)


def rated_pairs(rows: Table, rules: MiningRules) -> Table:
    """Good rows summed by pair (a log may come in daily parts), with `ctr` and `reason` (null: kept)."""
    good = rows.filter(rows.reason.isnull())
    totals = good.group_by(["query", "item_id"]).aggregate(
        impressions=good.impressions.sum(), clicks=good.clicks.sum()
    )
    # Spark raises on a division by zero.
    rated = totals.mutate(ctr=totals.clicks / totals.impressions.nullif(0))
    reason = ibis.cases(
        (rated.impressions < rules.min_impressions, DropReason.FEW_IMPRESSIONS.value),
        (rated.clicks < rules.min_clicks, DropReason.FEW_CLICKS.value),
        (rated.ctr < rules.min_ctr, DropReason.LOW_CTR.value),
    )
    return rated.mutate(reason=reason)


def best_pairs(rated: Table, rules: MiningRules) -> Table:
    """Kept pairs within all caps, most clicked first; the order is total, so results repeat."""
    kept = rated.filter(rated.reason.isnull()).drop("reason")
    for cap, group in ((rules.max_items_per_query, "query"), (rules.max_queries_per_item, "item_id")):
        if cap is not None:
            window = ibis.window(group_by=group, order_by=_order())
            kept = kept.mutate(**{f"rank_{group}": ibis.row_number().over(window)})
    # Both ranks before either filter: what a pair's query keeps does not depend on what its item keeps.
    for cap, group in ((rules.max_items_per_query, "query"), (rules.max_queries_per_item, "item_id")):
        if cap is not None:
            kept = kept.filter(kept[f"rank_{group}"] < cap)
    columns = kept.select("query", "item_id", "impressions", "clicks", "ctr")
    return columns.order_by(_order()).limit(rules.max_pairs)


def by_reason(table: Table) -> Table:
    """How many rows or pairs each reason has; those without one count as `KEPT`."""
    named = table.select(reason=table.reason.fill_null(KEPT))
    return named.group_by("reason").aggregate(count=named.count()).order_by("reason")


def _order() -> list[Value]:
    return [ibis.desc("clicks"), ibis.desc("ctr"), ibis.asc("query"), ibis.asc("item_id")]


def _count(column: Value) -> Value:
    """A whole number from 0 to 10^12, else null."""
    if not column.type().is_integer():
        # Casts alone would take "1.5", " 7" and "1e3" for whole numbers.
        text = column.cast("string")
        return text.re_search(_DIGITS).ifelse(text.try_cast("int64"), ibis.null("int64"))
    return column.between(0, _MAX_COUNT).ifelse(column.cast("int64"), ibis.null("int64"))
