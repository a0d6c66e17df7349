"""The three builders look alike from outside: documents, and drops with reasons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from training.corpus.dke import DkeConfig, build_dke
from training.corpus.document import Builder, CorpusReport, Document, Drop, DropReason, Segment
from training.corpus.icp import IcpConfig, build_icp
from training.corpus.rcd import RcdConfig, build_rcd
from training.data.dataset import Completion, CompletionQuery, Dataset, DatasetCard, Item
from training.data.pairs import Click, LabelledPair

CARD = DatasetCard.model_validate(
    {
        "name": "t",
        "language": "en",
        "licence": "CC0-1.0",
        "item_fields": [{"name": "title", "role": "title"}, {"name": "about", "role": "body"}],
        "labels": {"scale": [0, 1], "relevant_from": 1},
    }
)


class Shop:
    """A data set in memory whose labels nobody may read."""

    card = CARD
    click_path = None
    items: ClassVar = {
        "a": Item("a", {"title": "gas", "about": "pays gas bills"}),
        "b": Item("b", {"title": "oil", "about": "pays oil bills"}),
        "cold": Item("cold", {"title": "sun", "about": "sells panels"}),
        "void": Item("void", {"title": " "}),
    }

    def item_text(self, item_id: str) -> str:
        return str(self.items[item_id].fields["title"])

    def labels(self, split: str) -> list[LabelledPair]:
        pytest.fail("labels never reach a builder")

    def held_out_queries(self) -> set[str]:
        return set()

    def clicks(self) -> list[Click]:
        return [
            Click("heat", "a", 10, 9),
            Click("heat", "b", 10, 5),
            Click("stray", "b", 10, 4),
            Click("x", "a", 9, 0),
        ]

    def completions(self) -> list[Completion]:
        good = [CompletionQuery("warm my home", "it pays for gas")]
        return [
            Completion("a", "bills for gas", "gas", "short", good),
            Completion("gone", "x y", "x y", "x y", []),
        ]


SHOP: Dataset = Shop()  # type: ignore[assignment]


def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Everything is close but for the stray query."""
    return np.array([[0.0, 1.0] if text == "stray" else [1.0, 0.0] for text in texts], dtype=np.float32)


def drops(builder: object) -> list[tuple[str, DropReason]]:
    return [(made.key, made.reason) for made in builder if isinstance(made, Drop)]  # type: ignore[attr-defined]


def test_dke_joins_an_item_with_its_clicked_queries() -> None:
    config = DkeConfig(copies=1, field_dropout=0, shuffle_fields=False)
    made = {d.key: d for d in build_dke(SHOP, config, seed=0) if isinstance(d, Document)}
    assert made["a"].segments == (
        Segment("title", "gas", "a"), Segment("about", "pays gas bills", "a"), Segment("query", "heat"),
    )  # fmt: skip
    assert {s.text for s in made["b"].segments if s.name == "query"} == {"heat", "stray"}
    assert [s.name for s in made["cold"].segments] == ["title", "about"]


def test_dke_drops_an_item_without_text() -> None:
    assert ("void", DropReason.EMPTY_ITEM) in drops(build_dke(SHOP, DkeConfig(), seed=0))


def test_dke_caps_queries_and_repeats_by_seed() -> None:
    config = DkeConfig(max_queries=1)
    first, second = (list(build_dke(SHOP, config, seed=3)) for _ in range(2))
    assert first == second
    assert all(sum(s.name == "query" for s in d.segments) <= 1 for d in first if isinstance(d, Document))


def test_icp_drops_stray_clicks_and_unclicked_pairs() -> None:
    made = list(build_icp(SHOP, IcpConfig(), embed=embed, seed=0))
    assert (("stray | b", DropReason.LOW_SIMILARITY)) in drops(made)
    texts = {s.text for d in made if isinstance(d, Document) for s in d.segments}
    assert texts == {"heat", "gas", "oil"}


def test_icp_puts_related_queries_and_items_into_one_context() -> None:
    contexts = [d for d in build_icp(SHOP, IcpConfig(), embed=embed, seed=0) if isinstance(d, Document)]
    assert any({s.text for s in d.segments} == {"heat", "gas", "oil"} for d in contexts)


def test_icp_never_uses_anything_more_often_than_allowed() -> None:
    made = list(build_icp(SHOP, IcpConfig(max_uses=1), embed=embed, seed=0))
    used = [s.text for d in made if isinstance(d, Document) for s in d.segments]
    assert len(used) == len(set(used))
    assert any(reason is DropReason.OVER_USED for _, reason in drops(made))


def test_icp_on_the_sample_set_keeps_adjacent_contexts_apart(sample: Dataset) -> None:
    def random_embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.ones((len(texts), 1), dtype=np.float32)

    contexts = [
        d for d in build_icp(sample, IcpConfig(), embed=random_embed, seed=0) if isinstance(d, Document)
    ]
    shared = [
        bool({s.text for s in a.segments} & {s.text for s in b.segments}) for a, b in pairwise(contexts)
    ]
    assert len(contexts) > 300
    # Categories are shared by right; without reordering half of all neighbours share an item or a query.
    assert np.mean(shared) < 0.25


def test_rcd_puts_prose_under_the_body_behind_the_fields_and_names_what_it_refuses() -> None:
    made = list(build_rcd(SHOP, RcdConfig(), seed=0))
    documents = {d.key: d.segments for d in made if isinstance(d, Document)}
    fields = (Segment("title", "gas", "a"), Segment("about", "pays gas bills", "a"))
    assert documents["a:summary"] == (*fields, Segment("about", "bills for gas"))
    said = (Segment("query", "warm my home"), Segment("about", "it pays for gas"))
    assert documents["a:query-1"] == (*fields, *said)
    assert set(drops(made)) == {("a", DropReason.TOO_SHORT), ("gone", DropReason.UNKNOWN_ITEM)}


@pytest.mark.parametrize(
    ("held_out", "build"),
    [
        ("heat", lambda: build_dke(SHOP, DkeConfig(), seed=0)),
        ("heat", lambda: build_icp(SHOP, IcpConfig(), embed=embed, seed=0)),
        ("warm my home", lambda: build_rcd(SHOP, RcdConfig(), seed=0)),
    ],
    ids=["dke", "icp", "rcd"],
)
def test_no_builder_reads_a_query_of_dev_or_test(
    held_out: str, build: Callable[[], Builder], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(held_out in str(made) for made in build() if isinstance(made, Document))
    monkeypatch.setattr(Shop, "held_out_queries", lambda self: {held_out})
    made = list(build())
    assert not any(held_out in str(one) for one in made if isinstance(one, Document))
    assert DropReason.HELD_OUT_QUERY in {reason for _, reason in drops(made)}


def test_dke_without_queries_reads_no_click_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shop, "clicks", lambda self: pytest.fail("nobody asked for clicks"))
    made = list(build_dke(SHOP, DkeConfig(max_queries=0, copies=1), seed=0))
    assert sum(isinstance(one, Document) for one in made) == 3


def test_rcd_refuses_a_copy_of_the_title() -> None:
    made = build_rcd(SHOP, RcdConfig(min_words=1), seed=0)
    assert ("a", DropReason.COPIES_TITLE) in drops(made)


def test_rcd_passes_over_an_output_that_was_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = [CompletionQuery("warm my home", "it pays for gas")]
    partial = [Completion("a", "bills for gas", None, None, queries), Completion("b", None, None, None, [])]
    monkeypatch.setattr(Shop, "completions", lambda self: partial)
    made = list(build_rcd(SHOP, RcdConfig(), seed=0))
    assert sorted(d.key for d in made if isinstance(d, Document)) == ["a:query-1", "a:summary"]
    assert drops(made) == []


@pytest.mark.parametrize("switch", ["summary", "paraphrase", "background", "queries"])
def test_each_rcd_output_can_be_switched_off(sample: Dataset, switch: str) -> None:
    off = RcdConfig.model_validate({switch: False})
    prefix = "query" if switch == "queries" else switch
    keys = [d.key for d in build_rcd(sample, off, seed=0) if isinstance(d, Document)]
    assert len(keys) > 1000
    assert not any(key.split(":")[1].startswith(prefix) for key in keys)


def test_the_report_counts_documents_and_drops() -> None:
    report = CorpusReport()
    assert len(list(report.documents(build_dke(SHOP, DkeConfig(copies=1), seed=0)))) == 3
    assert report.summary()["dke"]["dropped"] == {"few-clicks": 1, "empty-item": 1}
