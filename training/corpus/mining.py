"""A data set's click log mined on DuckDB, straight from its file: memory is bounded, what does not fit spills."""

from __future__ import annotations

import glob
import tempfile
from collections import Counter
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb
import ibis
import pyarrow as pa
import pyarrow.compute as pc
from ibis import Table
from ibis.backends.duckdb import Backend
from pydantic import BaseModel, ConfigDict, Field

from training.corpus.clicklog import KEPT, MiningRules, best_pairs, by_reason, judged_rows, rated_pairs
from training.corpus.document import Drop, DropReason
from training.data.dataset import Dataset, query_key
from training.data.lines import tsv_rows
from training.data.pairs import CLICK_COLUMNS, Click
from training.data.problems import DataError, ProblemLog

_MAX_REJECTS = 100_000
"""Lines DuckDB keeps as unreadable; a file of noise must not fill memory with complaints."""


class DuckDbConfig(BaseModel):
    """What mining may take of the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_limit: str = Field(default="2GB", pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$")
    """Beyond it DuckDB spills to disk."""
    threads: int | None = Field(default=None, ge=1)
    """Null: all cores."""
    temp_directory: Path | None = None
    """Where a folder for spilling is made and removed again; null: the system's."""


class Mined(NamedTuple):
    """Pairs as columns query, item_id, impressions, clicks, ctr, most clicked first; and what was left out."""

    pairs: pa.Table
    dropped: dict[DropReason, int]

    def drops(self, source: str) -> Iterator[Drop]:
        """One counted drop a reason: a log has too many rows to name each."""
        for reason, count in self.dropped.items():
            yield Drop(source, "click log", reason, f"{count:,} rows or pairs", count)


def mine(dataset: Dataset, rules: MiningRules, limits: DuckDbConfig) -> Mined:
    """Mine the click file, or the clicks in memory where there is no file; bad rows are dropped and counted.

    Pairs whose query is held out are left out after all caps. Raises DataError when the file cannot be read, or
    memory and disk do not suffice.
    """
    known = ibis.memtable(pa.table({"item_id": pa.array(dataset.items, pa.string())}))
    with _connect(limits) as connection:
        try:
            mined = _run(connection, open_log(connection, dataset), known, rules)
        except duckdb.OutOfMemoryException as error:
            detail = "raise memory_limit or make room in temp_directory (pretrain.duckdb)"
            raise DataError(f"{dataset.click_path}: mining ran out of memory: {error}; {detail}") from error
        except duckdb.Error as error:
            raise DataError(
                f"{dataset.click_path}: cannot be mined: {error}; write the file again"
            ) from error
    return _without(mined, dataset.held_out_queries())


def _without(mined: Mined, held_out: Set[str]) -> Mined:
    """Here rather than in the query: the form of a query is Python's to tell, and pairs are few by now."""
    distinct = pc.unique(mined.pairs["query"]).to_pylist()
    leaked = pa.array([query for query in distinct if query_key(query) in held_out], pa.string())
    if not len(leaked):
        return mined
    kept = mined.pairs.filter(pc.invert(pc.is_in(mined.pairs["query"], value_set=leaked)))
    count = len(mined.pairs) - len(kept)
    return Mined(kept, mined.dropped | {DropReason.HELD_OUT_QUERY: count})


def open_log(connection: Backend, dataset: Dataset) -> Table:
    """The log as a table that is scanned, never held; columns as `training.corpus.clicklog` wants them."""
    path = dataset.click_path
    if path is None:
        return _in_memory(dataset.clicks()).mutate(bad_line=False)
    pattern = glob.escape(str(path))  # DuckDB expands * ? [ in a path
    if path.suffix == ".parquet":
        table = connection.read_parquet(pattern)
        if missing := set(CLICK_COLUMNS) - set(table.columns):
            raise DataError(f"{path}: columns {sorted(missing)} are missing; it needs {CLICK_COLUMNS}")
        return table.select(*CLICK_COLUMNS, bad_line=False)
    next(tsv_rows(path, CLICK_COLUMNS, ProblemLog(strict=False)), None)  # refuses another header
    # A fifth column catches lines with too many cells; DuckDB's strict mode would count them itself, but
    # gives up on a file with two kinds of line ends.
    table = connection.read_csv(
        pattern,
        columns=dict.fromkeys((*CLICK_COLUMNS, "rest"), "VARCHAR"),
        delim="\t", quote="", escape="", comment="", header=True,
        auto_detect=False, strict_mode=False, null_padding=True,
        store_rejects=True, rejects_limit=_MAX_REJECTS,
    )  # fmt: skip
    return table.select(*CLICK_COLUMNS, bad_line=table.rest.notnull() | table.clicks.isnull())


def _in_memory(clicks: list[Click]) -> Table:
    columns = zip(*clicks, strict=True) if clicks else ([], [], [], [])
    types = (pa.string(), pa.string(), pa.int64(), pa.int64())
    arrays = [pa.array(column, type=kind) for column, kind in zip(columns, types, strict=True)]
    return ibis.memtable(pa.table(arrays, names=list(CLICK_COLUMNS)))


def _run(connection: Backend, log: Table, known: Table, rules: MiningRules) -> Mined:
    rows = judged_rows(log, known)
    rated = rated_pairs(rows, rules)
    pairs = connection.to_pyarrow(best_pairs(rated, rules))
    bad, weak = _counts(connection, rows), _counts(connection, rated)
    bad[DropReason.BAD_LINE] += _rejected(connection)
    weak[DropReason.BEYOND_CAP] = weak[KEPT] - len(pairs)
    dropped = {DropReason(reason): n for reason, n in (bad + weak).items() if reason != KEPT}
    return Mined(pairs, dropped)


def _counts(connection: Backend, table: Table) -> Counter[str]:
    found = connection.to_pyarrow(by_reason(table)).to_pydict()
    return Counter(dict(zip(found["reason"], found["count"], strict=True)))


def _rejected(connection: Backend) -> int:
    """Lines that the reader itself refused: broken UTF-8, or megabytes without a line end."""
    try:
        # Every scan of the file notes them again.
        found = connection.raw_sql("SELECT count(DISTINCT line) FROM reject_errors").fetchone()
    except duckdb.CatalogException:  # not a text file
        return 0
    return int(found[0])


@contextmanager
def _connect(limits: DuckDbConfig) -> Iterator[Backend]:
    if limits.temp_directory is not None:
        limits.temp_directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cprm-mining-", dir=limits.temp_directory) as spill:
        settings = {} if limits.threads is None else {"threads": limits.threads}
        connection = ibis.duckdb.connect(
            memory_limit=limits.memory_limit,
            temp_directory=spill,
            preserve_insertion_order=False,
            **settings,
        )
        try:
            yield connection
        finally:
            connection.disconnect()
