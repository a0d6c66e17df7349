"""A data set folder as typed rows. Every file is read when it is asked for, once."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Set
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model_repo.text import canonical_text
from training.data.lines import find, json_rows, text_lines
from training.data.pairs import Click, LabelledPair, read_clicks, read_labels
from training.data.problems import DataError, Problem, ProblemLog, Reason

FieldValue = str | list[str]
SPLITS = ("train", "dev", "test")
HELD_OUT = ("dev", "test")


def query_key(query: str) -> str:
    """Queries of equal key are one query to a reader: case, white space and Unicode form apart."""
    return canonical_text(query).lower()


class ItemField(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    role: str


class LabelScale(BaseModel):
    """Inclusive integer scale; labels from `relevant_from` up count as relevant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: tuple[int, int]
    relevant_from: int
    grades: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.scale
        if not low < self.relevant_from <= high:
            raise ValueError(f"relevant_from {self.relevant_from} must lie in {low + 1}..{high}")
        if self.grades is not None and len(self.grades) != high - low + 1:
            raise ValueError(f"grades: {high - low + 1} names are needed for the scale {low}..{high}")
        return self

    @property
    def grade_names(self) -> tuple[str, ...]:
        low, high = self.scale
        if self.grades:
            return self.grades
        return (
            ("irrelevant", "relevant")
            if high - low == 1
            else tuple(f"grade-{g}" for g in range(low, high + 1))
        )


class DatasetCard(BaseModel):
    """dataset.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    language: str
    licence: str
    item_fields: Annotated[tuple[ItemField, ...], Field(min_length=1)]
    plain_text_field: str | None = None
    labels: LabelScale

    @model_validator(mode="after")
    def _plain_text_field_exists(self) -> Self:
        names = [field.name for field in self.item_fields]
        if len(set(names)) != len(names):
            raise ValueError(f"item_fields: names repeat in {names}")
        if self.plain_text_field is not None and self.plain_text_field not in names:
            raise ValueError(f"plain_text_field {self.plain_text_field!r} is not among item_fields {names}")
        return self


class Item(NamedTuple):
    item_id: str
    fields: dict[str, FieldValue]


class QueryInfo(NamedTuple):
    query: str
    split: str
    style: str
    slice: str


class CompletionQuery(NamedTuple):
    query: str
    explanation: str


class Completion(NamedTuple):
    """What a teacher wrote about one item; prose that it was not asked for, or that was rejected, is None."""

    item_id: str
    summary: str | None
    paraphrase: str | None
    background: str | None
    queries: list[CompletionQuery]


class Dataset:
    """Rows of one folder. In lenient mode bad rows are dropped and counted in `log`."""

    def __init__(self, root: Path, *, strict: bool) -> None:
        self.root = root
        self.log = ProblemLog(strict=strict)
        self.card = _read_card(root)
        self._labels: dict[str, list[LabelledPair]] = {}
        self._held_out: set[str] = set()

    @cached_property
    def items(self) -> dict[str, Item]:
        path = _need(self.root, "items.jsonl")
        names = {field.name for field in self.card.item_fields}
        items: dict[str, Item] = {}
        for number, row in json_rows(path, self.log):
            problem = _item_problem(path, number, row, names, items)
            if problem:
                self.log.add(problem)
            else:
                items[row["item_id"]] = Item(row["item_id"], row["fields"])
        if not items:
            raise DataError(
                f"{path}: no usable item; `cprm-train data check {self.root}` lists what is wrong"
            )
        return items

    def item_fields(self) -> dict[str, dict[str, FieldValue]]:
        """Fields by item id."""
        return {item_id: item.fields for item_id, item in self.items.items()}

    def item_text(self, item_id: str) -> str:
        """All fields of an item as one text, in the card's order."""
        fields = self.items[item_id].fields
        texts = (canonical_text(fields.get(field.name, "")) for field in self.card.item_fields)
        return ". ".join(text for text in texts if text)

    def labels(self, split: str) -> list[LabelledPair]:
        """Labelled pairs of train, dev or test, in file order. Raises DataError when the file is missing."""
        if split not in self._labels:
            path = _need(self.root, f"labels.{split}.tsv")
            pairs = list(read_labels(path, self.items.keys(), self.card.labels.scale, self.log))
            if not pairs:
                raise DataError(
                    f"{path}: no usable pair; `cprm-train data check {self.root}` lists what is wrong"
                )
            self._labels[split] = pairs
            if split in HELD_OUT:
                self._held_out |= {query_key(pair.query) for pair in pairs}
        return self._labels[split]

    def held_out_queries(self) -> Set[str]:
        """Keys of all queries of dev and test, drawn by `sample` or not: no training may read them."""
        for split in HELD_OUT:
            if find(self.root, f"labels.{split}.tsv"):
                self.labels(split)
        return self._held_out

    def sample(self, split: str, queries: int, *, seed: int = 0) -> None:
        """From here on `labels(split)` holds that many whole queries, drawn by `seed`, in file order."""
        pairs = self.labels(split)
        names = sorted({pair.query for pair in pairs})
        kept = set(random.Random(seed).sample(names, min(queries, len(names))))
        self._labels[split] = [pair for pair in pairs if pair.query in kept]

    @property
    def click_path(self) -> Path | None:
        """The click log as a file, for readers that need not hold all of it."""
        return find(self.root, "clicks.tsv") or find(self.root, "clicks.parquet")

    @cached_property
    def _clicks(self) -> list[Click]:
        path = self.click_path
        return list(read_clicks(path, self.items.keys(), self.log)) if path else []

    def clicks(self) -> list[Click]:
        """The whole click log in memory, each bad row reported by line; empty where there is none."""
        return self._clicks

    @cached_property
    def _completions(self) -> list[Completion]:
        path = find(self.root, "rcd.jsonl")
        return list(self._read(path, _completion)) if path else []

    def completions(self) -> list[Completion]:
        """Recorded teacher completions; empty where there are none."""
        return self._completions

    def query_info(self) -> dict[str, QueryInfo]:
        """Slices by query; empty where queries.jsonl is absent."""
        path = find(self.root, "queries.jsonl")
        return {info.query: info for info in self._read(path, _query_info)} if path else {}

    def cold_items(self) -> frozenset[str]:
        """Items without labels or clicks in train."""
        path = find(self.root, "cold_items.txt")
        lines = text_lines(path, self.log) if path else ()
        return frozenset(line.strip() for _, line in lines if line.strip())

    def _read(self, path: Path, parse: Callable[[dict[str, Any]], Any]) -> list[Any]:
        rows = []
        for number, row in json_rows(path, self.log):
            try:
                parsed = parse(row)
            except KeyError as error:
                field = str(error.args[0])
                self.log.add(
                    Problem(path, number, Reason.MISSING_FIELD, field, "is missing", f"add {field!r}")
                )
            except TypeError as error:
                self.log.add(Problem(path, number, Reason.WRONG_TYPE, "line", str(error), "write a string"))
            else:
                if isinstance(parsed, Completion) and parsed.item_id not in self.items:
                    detail = f"{parsed.item_id!r} is not in items"
                    self.log.add(
                        Problem(path, number, Reason.UNKNOWN_ITEM, "item_id", detail, "remove the row")
                    )
                else:
                    rows.append(parsed)
        return rows


def load_dataset(root: Path, *, strict: bool = True) -> Dataset:
    """Open a folder and read its items. Raises DataError naming file, line and remedy."""
    dataset = Dataset(root, strict=strict)
    _ = dataset.items
    return dataset


def _read_card(root: Path) -> DatasetCard:
    path = root / "dataset.json"
    try:
        return DatasetCard.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; it names the item fields and the label scale") from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DataError(f"{path}: {found}") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: {error}") from error


def _need(root: Path, name: str) -> Path:
    path = find(root, name)
    if path is None:
        raise DataError(f"{root / name}: missing (also as .gz); this step cannot do without it")
    return path


def _item_problem(
    path: Path, line: int, row: dict[str, Any], names: set[str], seen: dict[str, Item]
) -> Problem | None:
    """The first thing wrong with an item row."""
    item_id, fields = row.get("item_id"), row.get("fields")
    if not isinstance(item_id, str) or not item_id:
        return Problem(path, line, Reason.MISSING_FIELD, "item_id", "must be a string", "give the item an id")
    if not isinstance(fields, dict):
        return Problem(path, line, Reason.MISSING_FIELD, "fields", "must be an object", "put the texts there")
    if item_id in seen:
        return Problem(path, line, Reason.DUPLICATE_ITEM, "item_id", f"{item_id!r} repeats", "keep one row")
    for name, value in fields.items():
        if name not in names:
            return Problem(
                path, line, Reason.UNKNOWN_FIELD, name, "is not in dataset.json", "add it to item_fields"
            )
        if not isinstance(value, str) and not (
            isinstance(value, list) and all(isinstance(part, str) for part in value)
        ):
            detail = "is neither a string nor a list of strings"
            return Problem(path, line, Reason.WRONG_TYPE, name, detail, "write text")
    if not any("".join(value).strip() for value in fields.values()):
        return Problem(
            path, line, Reason.EMPTY_TEXT, "fields", "hold no text", "fill a field or drop the item"
        )
    return None


def _text(row: dict[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise TypeError(f"{name} is not a string")
    return str(row[name])


def _optional_text(row: dict[str, Any], name: str) -> str | None:
    return _text(row, name) if name in row else None


def _query_info(row: dict[str, Any]) -> QueryInfo:
    return QueryInfo(*(_text(row, name) for name in QueryInfo._fields))


def _completion(row: dict[str, Any]) -> Completion:
    """At least one output must be there: a row with none is a misspelt key rather than a choice."""
    if not row.keys() & {"summary", "paraphrase", "background", "queries"}:
        raise KeyError("summary, paraphrase, background or queries")
    queries = row.get("queries", [])
    if not isinstance(queries, list) or not all(isinstance(query, dict) for query in queries):
        raise TypeError("queries is not a list of objects")
    return Completion(
        item_id=_text(row, "item_id"),
        summary=_optional_text(row, "summary"),
        paraphrase=_optional_text(row, "paraphrase"),
        background=_optional_text(row, "background"),
        queries=[CompletionQuery(_text(query, "query"), _text(query, "explanation")) for query in queries],
    )
