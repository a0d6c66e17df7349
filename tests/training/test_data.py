"""Every kind of bad row is named by file and line; good data sets load."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from training.data.check import check_dataset, render
from training.data.dataset import Dataset, load_dataset
from training.data.problems import DataError, Reason

CARD = {
    "name": "tiny",
    "language": "en",
    "licence": "CC0-1.0",
    "item_fields": [{"name": "title", "role": "title"}, {"name": "tags", "role": "keywords"}],
    "labels": {"scale": [0, 3], "relevant_from": 2},
}
ITEM = '{"item_id": "a", "fields": {"title": "gas", "tags": ["x", "y"]}}\n'
FILES = {
    "items.jsonl": (ITEM + ITEM.replace('"a"', '"b"')).encode(),
    "labels.train.tsv": b"query\titem_id\tlabel\ngas\ta\t3\ngas\tb\t0\n",
    "clicks.tsv": b"query\titem_id\timpressions\tclicks\ngas\ta\t10\t3\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dataset.json").write_text(json.dumps(CARD))
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def read_all(root: Path, *, strict: bool) -> Dataset:
    dataset = load_dataset(root, strict=strict)
    dataset.labels("train")
    dataset.clicks()
    return dataset


BAD_ROWS = [
    ("items.jsonl", b'{"item_id": "c", "fields": {"title": "\xff"}}', Reason.BROKEN_UTF8, 3),
    ("items.jsonl", b"{", Reason.BROKEN_JSON, 3),
    ("items.jsonl", b"[]", Reason.WRONG_TYPE, 3),
    (
        "items.jsonl",
        rb'{"item_id": "c", "fields": {"tags": ["\ud83d\ude00", "\uD800"]}}',
        Reason.BROKEN_UTF8,
        3,
    ),
    ("items.jsonl", b'{"fields": {"title": "x"}}', Reason.MISSING_FIELD, 3),
    ("items.jsonl", b'{"item_id": "c"}', Reason.MISSING_FIELD, 3),
    ("items.jsonl", b'{"item_id": "c", "fields": {"colour": "x"}}', Reason.UNKNOWN_FIELD, 3),
    ("items.jsonl", b'{"item_id": "c", "fields": {"title": 3}}', Reason.WRONG_TYPE, 3),
    ("items.jsonl", b'{"item_id": "c", "fields": {"title": " "}}', Reason.EMPTY_TEXT, 3),
    ("items.jsonl", b'{"item_id": "a", "fields": {"title": "x"}}', Reason.DUPLICATE_ITEM, 3),
    ("labels.train.tsv", b"gas\ta\t2", Reason.DUPLICATE_PAIR, 4),
    ("labels.train.tsv", b"oil\tz\t2", Reason.UNKNOWN_ITEM, 4),
    ("labels.train.tsv", b"oil\ta\t4", Reason.LABEL_OFF_SCALE, 4),
    ("labels.train.tsv", b"oil\ta\t1.5", Reason.LABEL_NOT_INTEGER, 4),
    ("labels.train.tsv", b"oil\ta", Reason.WRONG_COLUMNS, 4),
    ("labels.train.tsv", b" \ta\t1", Reason.EMPTY_TEXT, 4),
    ("clicks.tsv", b"oil\ta\tmany\t1", Reason.COUNT_NOT_INTEGER, 3),
    ("clicks.tsv", b"oil\ta\t-1\t0", Reason.NEGATIVE_COUNT, 3),
    ("clicks.tsv", b"oil\ta\t1\t2", Reason.CLICKS_EXCEED_IMPRESSIONS, 3),
]


@pytest.mark.parametrize(
    ("name", "row", "reason", "line"), BAD_ROWS, ids=[f"{r[0]} {r[2]}" for r in BAD_ROWS]
)
def test_a_bad_row_stops_strict_reading_and_is_counted_by_lenient(
    folder: Path, name: str, row: bytes, reason: Reason, line: int
) -> None:
    good = read_all(folder, strict=True)
    with (folder / name).open("ab") as file:
        file.write(row + b"\n")
    with pytest.raises(DataError, match=rf"{name}:{line}: .*\({reason}\)"):
        read_all(folder, strict=True)
    lenient = read_all(folder, strict=False)
    assert lenient.log.counts == {reason: 1}
    assert lenient.items == good.items
    assert lenient.labels("train") == good.labels("train")


def test_a_wrong_header_is_fatal_in_either_mode(folder: Path) -> None:
    (folder / "labels.train.tsv").write_text("q\titem\tlabel\n")
    with pytest.raises(DataError, match=r"labels\.train\.tsv:1: header"):
        read_all(folder, strict=False)


def test_a_missing_split_names_file_and_remedy(folder: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.dev\.tsv: missing \(also as \.gz\)"):
        load_dataset(folder).labels("dev")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"scale": [0, 3], "relevant_from": 9}}, "relevant_from 9"),
        ({"plain_text_field": "nope"}, "plain_text_field"),
        ({"item_fields": []}, "item_fields"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_wrong_card_is_explained(folder: Path, change: dict[str, object], message: str) -> None:
    (folder / "dataset.json").write_text(json.dumps(CARD | change))
    with pytest.raises(DataError, match=message):
        load_dataset(folder)


def test_the_check_reads_on_after_problems_and_finds_leaks(folder: Path) -> None:
    (folder / "labels.dev.tsv").write_text("query\titem_id\tlabel\ngas\ta\t3\ngas\tz\t3\n")
    report = check_dataset(folder)
    assert not report.ok
    assert report.log.counts[Reason.UNKNOWN_ITEM] == 1
    assert report.log.counts[Reason.SPLIT_LEAK] == 2
    assert "labels.dev.tsv:3: item_id: 'z' is not in items" in render(report)


def test_half_a_surrogate_pair_is_refused_by_field_and_a_whole_one_is_a_character(folder: Path) -> None:
    row = r'{"item_id": "c", "fields": {"title": "\ud83d\ude00"}}'
    (folder / "items.jsonl").write_text(row + "\n")
    assert load_dataset(folder).items["c"].fields == {"title": "\N{GRINNING FACE}"}
    (folder / "items.jsonl").write_text(row.replace(r"\ude00", "") + "\n")
    with pytest.raises(DataError, match=r"items.jsonl:1: fields.title: holds half of a surrogate pair"):
        load_dataset(folder)


def test_the_check_finds_held_out_queries_in_clicks_and_completions_whatever_their_case(folder: Path) -> None:
    (folder / "labels.test.tsv").write_text("query\titem_id\tlabel\nOil  Bill\ta\t3\noil bill\tb\t0\n")
    (folder / "clicks.tsv").write_bytes(FILES["clicks.tsv"] + b"OIL bill\ta\t9\t1\n")
    said = {"item_id": "a", "queries": [{"query": "oil Bill", "explanation": "it pays"}]}
    (folder / "rcd.jsonl").write_text(json.dumps(said) + "\n")
    shown = render(check_dataset(folder))
    assert "clicks:0: query: 'OIL bill' is a query of dev or test" in shown
    assert "rcd.jsonl:0: query: 'oil Bill' is a query of dev or test" in shown


def test_held_out_queries_do_not_shrink_with_a_sample(folder: Path) -> None:
    (folder / "labels.test.tsv").write_text("query\titem_id\tlabel\nOil\ta\t3\nsun\tb\t0\n")
    dataset = load_dataset(folder)
    dataset.sample("test", 1)
    assert dataset.held_out_queries() == {"oil", "sun"}


def test_completions_may_lack_outputs_but_not_all_of_them(folder: Path) -> None:
    (folder / "rcd.jsonl").write_text('{"item_id": "a", "summary": "pays gas bills"}\n')
    assert load_dataset(folder).completions() == [("a", "pays gas bills", None, None, [])]
    (folder / "rcd.jsonl").write_text('{"item_id": "a", "sumary": "pays gas bills"}\n')
    with pytest.raises(DataError, match=r"rcd\.jsonl:1: summary, paraphrase, background or queries"):
        load_dataset(folder).completions()


def test_the_sample_set_is_clean(sample: Dataset) -> None:
    report = check_dataset(sample.root)
    assert report.ok, render(report)
    assert report.counts["items"] == "374"
    assert report.counts["labels.test"].startswith("6,792 pairs, 283 queries")


def test_clicks_are_read_from_parquet_too(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (folder / "clicks.tsv").unlink()
    table = pa.table({"query": ["gas"], "item_id": ["a"], "impressions": [10], "clicks": [3]})
    parquet.write_table(table, folder / "clicks.parquet")
    assert load_dataset(folder).clicks() == [("gas", "a", 10, 3)]


def test_gzipped_files_are_the_same_data(folder: Path, tmp_path: Path) -> None:
    import gzip

    plain = read_all(folder, strict=True)
    for name in FILES:
        with gzip.open(folder / f"{name}.gz", "wb") as packed, (folder / name).open("rb") as file:
            shutil.copyfileobj(file, packed)
        (folder / name).unlink()
    packed_set = read_all(folder, strict=True)
    assert packed_set.items == plain.items
    assert packed_set.labels("train") == plain.labels("train")


@pytest.mark.skipif("CPRM_MSRD_DIR" not in os.environ, reason="CPRM_MSRD_DIR is not set; MSRD lies outside")
def test_msrd_loads_by_the_same_reader() -> None:
    report = check_dataset(Path(os.environ["CPRM_MSRD_DIR"]))
    assert report.ok, render(report)
    assert report.counts["items"] == "9,750"
    assert report.counts["labels.test"].startswith("43,526 pairs, 1,841 queries")
