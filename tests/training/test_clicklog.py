"""Mining: the same pairs from a list, a text file or Parquet; bad rows under named counts; portable expressions."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from training.corpus.clicklog import MiningRules, best_pairs, by_reason, judged_rows, rated_pairs
from training.corpus.document import DropReason
from training.corpus.mining import DuckDbConfig, Mined, mine
from training.data.dataset import Dataset
from training.data.pairs import CLICK_COLUMNS, Click
from training.data.problems import DataError

LIMITS = DuckDbConfig(memory_limit="200MB", threads=1)
ALL = MiningRules(min_ctr=0, max_items_per_query=None, max_queries_per_item=None)
COLUMNS = dict.fromkeys(CLICK_COLUMNS, "string") | {"bad_line": "boolean"}


class Log:
    """As much of a data set as mining reads."""

    def __init__(self, *clicks: Click, path: Path | None = None, items: str = "abcde") -> None:
        self._clicks, self.click_path, self.items = list(clicks), path, dict.fromkeys(items)
        self.held_out: set[str] = set()

    def held_out_queries(self) -> set[str]:
        return self.held_out

    def clicks(self) -> list[Click]:
        return self._clicks


def mined(log: Log | Dataset, **rules: Any) -> Mined:
    return mine(log, ALL.model_copy(update=rules), LIMITS)  # type: ignore[arg-type]


def kept(log: Log | Dataset, **rules: Any) -> list[tuple[str, str]]:
    pairs = mined(log, **rules).pairs
    return list(zip(pairs["query"].to_pylist(), pairs["item_id"].to_pylist(), strict=True))


def tsv(folder: Path, *rows: bytes, name: str = "clicks.tsv") -> Log:
    path = folder / name
    data = b"\t".join(column.encode() for column in CLICK_COLUMNS) + b"\n" + b"\n".join(rows)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return Log(path=path)


def test_held_out_queries_are_dropped_whatever_their_case_and_counted() -> None:
    log = Log(Click("Gas  Bill", "a", 10, 2), Click("gas bill", "b", 8, 4), Click("oil", "c", 5, 1))
    assert DropReason.HELD_OUT_QUERY not in mined(log).dropped
    log.held_out = {"gas bill"}
    assert kept(log) == [("oil", "c")]
    assert mined(log).dropped[DropReason.HELD_OUT_QUERY] == 2


def test_pairs_come_most_clicked_first_with_their_rate() -> None:
    pairs = mined(Log(Click("x", "a", 10, 2), Click("y", "b", 8, 4), Click("z", "c", 5, 0))).pairs
    assert pairs.to_pylist() == [
        {"query": "y", "item_id": "b", "impressions": 8, "clicks": 4, "ctr": 0.5},
        {"query": "x", "item_id": "a", "impressions": 10, "clicks": 2, "ctr": 0.2},
    ]


def test_thresholds_include_their_own_value_and_count_what_they_refuse() -> None:
    log = Log(
        Click("x", "a", 100, 20), Click("x", "b", 99, 90), Click("x", "c", 100, 19), Click("x", "d", 100, 0)
    )
    found = mined(log, min_impressions=100, min_ctr=0.2)
    assert found.pairs["item_id"].to_pylist() == ["a"]
    assert found.dropped == {
        DropReason.FEW_IMPRESSIONS: 1,
        DropReason.LOW_CTR: 1,
        DropReason.FEW_CLICKS: 1,
    }


def test_the_days_of_a_log_add_up() -> None:
    pairs = mined(Log(Click("x", "a", 60, 1), Click("x", "a", 60, 29)), min_impressions=100, min_ctr=0.2)
    assert pairs.pairs.to_pylist()[0]["ctr"] == 0.25
    assert not pairs.dropped


def test_caps_keep_the_most_clicked_of_each_query_and_item() -> None:
    log = Log(*(Click(query, item, 9, 9 - n) for query in "xyz" for n, item in enumerate("abcde")))
    assert {item for _, item in kept(log, max_items_per_query=2)} == {"a", "b"}
    assert {query for query, _ in kept(log, max_queries_per_item=1)} == {"x"}
    assert kept(log, max_pairs=2) == [("x", "a"), ("y", "a")]
    assert mined(log, max_pairs=2).dropped == {DropReason.BEYOND_CAP: 13}


BAD_ROWS = (
    b"gas\ta\t10\t3",
    b'"oil\ta\t10\t3',  # quotes are text
    b"x\ta\t1",
    b"x\ta\t1\t2\t3",
    b"x\ta\t1\t2\t3\t4",
    b"\xff\xfe\ta\t1\t1",
    b"",
    b"  \ta\t5\t1",
    b"x\tb\t1.5\t1",
    b"x\tb\t 7\t1",
    b"x\tb\t-7\t-8",
    b"x\tb\t9999999999999999999999\t1",
    b"x\tb\t1\t7",
    b"x\tgone\t1\t0",
    "caf\u00e9\tc\t4\t4\r".encode(),
)


@pytest.mark.parametrize("name", ["clicks.tsv", "clicks.tsv.gz"])
def test_bad_rows_of_a_file_are_counted_and_spoil_nothing(tmp_path: Path, name: str) -> None:
    found = mined(tsv(tmp_path, *BAD_ROWS, name=name))
    assert found.pairs["query"].to_pylist() == ["caf\u00e9", '"oil', "gas"]
    assert found.dropped == {
        DropReason.BAD_LINE: 4,
        DropReason.EMPTY_QUERY: 1,
        DropReason.BAD_COUNT: 4,
        DropReason.CLICKS_EXCEED_IMPRESSIONS: 1,
        DropReason.UNKNOWN_ITEM: 1,
    }


def test_a_drop_of_many_rows_is_one_drop_with_a_count() -> None:
    drops = list(mined(Log(Click("x", "gone", 1, 1), Click("y", "gone", 1, 1))).drops("icp"))
    assert [(drop.source, drop.reason, drop.count) for drop in drops] == [("icp", DropReason.UNKNOWN_ITEM, 2)]


def test_an_empty_log_has_no_pairs(tmp_path: Path) -> None:
    assert not kept(Log())
    assert not kept(tsv(tmp_path))


@pytest.mark.parametrize("name", ["clicks.tsv", "clicks.parquet"])
def test_a_folder_may_be_named_like_a_pattern(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a [b] *?"
    folder.mkdir()
    log = tsv(folder, b"x\ta\t1\t1")
    if name.endswith(".parquet"):
        log = Log(path=folder / name)
        parquet.write_table(pa.table([["x"], ["a"], [1], [1]], list(CLICK_COLUMNS)), folder / name)
    assert kept(log) == [("x", "a")]


def test_another_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clicks.tsv"
    path.write_text("query\titem\tshown\tclicks\nx\ta\t1\t1\n")
    with pytest.raises(DataError, match="header"):
        mined(Log(path=path))


@pytest.mark.parametrize("name", ["clicks.parquet", "clicks.tsv.gz"])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 broken")
    with pytest.raises(DataError, match=name):
        mined(Log(path=tmp_path / name))


def test_parquet_without_a_column_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"query": ["x"]}), tmp_path / "clicks.parquet")
    with pytest.raises(DataError, match="item_id"):
        mined(Log(path=tmp_path / "clicks.parquet"))


def test_the_sample_log_mines_alike_from_file_and_from_rows(sample: Dataset) -> None:
    assert sample.click_path is not None
    rows = Log(*sample.clicks())
    rows.items = dict.fromkeys(sample.items)
    from_file, from_rows = mined(sample, min_ctr=0.2), mined(rows, min_ctr=0.2)
    assert from_file.pairs.equals(from_rows.pairs)
    assert from_file.dropped == from_rows.dropped
    assert len(from_file.pairs) > 4_000


CLICKS = st.lists(
    st.builds(
        lambda query, item, clicks, more: Click(query, item, clicks + more, clicks),
        st.sampled_from(["x", "y", "long query", "caf\u00e9"]),
        st.sampled_from("abcdez"),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    max_size=30,
)


@given(clicks=CLICKS, cap=st.integers(1, 3), ctr=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
@settings(max_examples=10, deadline=None)
def test_any_source_gives_what_counting_by_hand_gives(
    tmp_path_factory: pytest.TempPathFactory, clicks: list[Click], cap: int, ctr: float
) -> None:
    folder = tmp_path_factory.mktemp("log")
    text = tsv(folder, *("\t".join(map(str, click)).encode() for click in clicks))
    parquet.write_table(
        pa.table([list(column) for column in zip(*clicks, strict=True)] or [[]] * 4, list(CLICK_COLUMNS)),
        folder / "clicks.parquet",
    )
    rules = {"min_ctr": ctr, "max_items_per_query": cap, "max_queries_per_item": cap}
    expected = by_hand(clicks, cap, ctr)
    for log in (Log(*clicks), text, Log(path=folder / "clicks.parquet")):
        assert kept(log, **rules) == expected


def by_hand(clicks: list[Click], cap: int, ctr: float) -> list[tuple[str, str]]:
    shown, clicked = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for query, item, impressions, count in clicks:
        if item != "z":
            shown[query, item] += impressions
            clicked[query, item] += count
    good = [pair for pair in shown if clicked[pair] and clicked[pair] / shown[pair] >= ctr]
    good.sort(key=lambda pair: (-clicked[pair], -clicked[pair] / shown[pair], pair[0].encode(), pair[1]))
    ahead = [
        [sum(other[side] == pair[side] for other in good[:n]) for side in (0, 1)]
        for n, pair in enumerate(good)
    ]
    return [pair for pair, ranks in zip(good, ahead, strict=True) if max(ranks) < cap]


def test_a_log_that_does_not_fit_the_memory_limit_spills(tmp_path: Path) -> None:
    rows = 200_000
    table = pa.table({
        "query": [f"query number {n} with a tail of words that takes room" for n in range(rows)],
        "item_id": ["a"] * rows, "impressions": [2] * rows, "clicks": [1] * rows,
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "clicks.parquet")
    spill = tmp_path / "spill"
    spill.mkdir()
    limits = DuckDbConfig(memory_limit="40MB", threads=1, temp_directory=spill)
    rules = MiningRules(max_queries_per_item=10)
    found = mine(Log(path=tmp_path / "clicks.parquet"), rules, limits)  # type: ignore[arg-type]
    assert len(found.pairs) == 10
    assert found.dropped == {DropReason.BEYOND_CAP: rows - 10}
    assert not list(spill.iterdir())


class PySparkOptions(ibis.config.Config):  # type: ignore[misc]
    """What Ibis registers itself where pyspark is installed."""

    treat_nan_as_null: bool = False


@pytest.mark.parametrize("dialect", ["duckdb", "pyspark"])
def test_the_expressions_compile_for_both_backends(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ibis.options, "pyspark", PySparkOptions())
    rows = judged_rows(ibis.table(COLUMNS, name="log"), ibis.table({"item_id": "string"}, name="items"))
    rated = rated_pairs(rows, MiningRules())
    for table in (by_reason(rows), by_reason(rated), best_pairs(rated, MiningRules())):
        sql = str(ibis.to_sql(table, dialect=dialect))
        assert "TRY_CAST" in sql
    assert sql.count("ROW_NUMBER()") == 2


@pytest.mark.slow
def test_spark_finds_what_duckdb_finds(sample: Dataset) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    from pyspark.sql import SparkSession

    session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    spark = ibis.pyspark.connect(session)
    try:
        read = session.read.csv(str(sample.click_path), sep="\t", header=True, quote="", escape="")
        read.createOrReplaceTempView("log")
        known = ibis.memtable(pa.table({"item_id": list(sample.items)}))
        log = spark.table("log").mutate(bad_line=False)
        rules = MiningRules()
        pairs = spark.to_pyarrow(best_pairs(rated_pairs(judged_rows(log, known), rules), rules))
    finally:
        session.stop()
    assert pairs.to_pylist() == mine(sample, rules, LIMITS).pairs.to_pylist()
