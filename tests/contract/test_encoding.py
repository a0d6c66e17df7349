"""Exact lists, and what must hold for every text."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from model_repo.encoding import EncodedPairs, PairEncoder, fit_to_budget
from model_repo.keys import item_key, query_key
from model_repo.spec import FieldPart, LiteralPart, QueryPart, RenderSpec, Special, SpecialIds
from model_repo.text import canonical_text
from training.models.checkpoint import load_tokenizer, minilm_path

CLS, SEP, MASK, PAD = 101, 102, 103, 0


def bert_spec(**changes: object) -> RenderSpec:
    eos = Special(kind="eos")
    fields = (FieldPart(name="title", budget=3), FieldPart(name="tags", budget=2))
    values: dict[str, object] = {
        "template": (Special(kind="cls"), QueryPart(budget=4), eos, *fields, eos),
        "max_tokens": 16,
        "special_ids": SpecialIds(cls=CLS, eos=SEP, pad=PAD, mask=MASK),
        "plain_text_field": "title",
    }
    return RenderSpec.model_validate(values | changes)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(minilm_path())


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> PairEncoder:
    return PairEncoder(bert_spec(), tokenizer)


def ids(tokenizer: Tokenizer, *words: str) -> list[int]:
    return [tokenizer.token_to_id(word) for word in words]


def test_a_pair_becomes_exactly_these_tokens_and_segments(encoder: PairEncoder, tokenizer: Tokenizer) -> None:
    pairs = encoder.encode("Pay bill", [{"title": "Heat", "tags": ["gas", "power"]}])
    expected = [CLS, *ids(tokenizer, "pay", "bill"), SEP, *ids(tokenizer, "heat", "gas", ",", "power"), SEP]
    assert pairs.input_ids.tolist() == expected
    assert pairs.segment_ids.tolist() == [0, 1, 1, 0, 2, 3, 3, 3, 0]
    assert pairs.truncated.tolist() == [0]


def test_a_batch_is_padded_on_the_right(encoder: PairEncoder) -> None:
    arrays = encoder.encode("pay", [{"title": "gas power"}, {"title": "gas"}]).collate(pad_id=PAD)
    assert arrays["lengths"].tolist() == [6, 5]
    assert arrays["input_ids"].shape == (2, 6)
    assert arrays["input_ids"][1, 5] == PAD
    assert arrays["segment_ids"][1].tolist() == [0, 1, 0, 2, 0, 0]


def test_a_long_item_never_takes_a_token_of_the_query(encoder: PairEncoder) -> None:
    pairs = encoder.encode("one two three four", [{"title": "gas " * 500, "tags": ["power " * 500]}])
    assert int((pairs.segment_ids == 1).sum()) == 4
    assert int(pairs.lengths[0]) == 16
    assert encoder.truncated_names(int(pairs.truncated[0])) == ["title", "tags"]


def test_a_query_over_its_budget_is_cut_and_reported(encoder: PairEncoder) -> None:
    pairs = encoder.encode("one two three four five", [{"title": "gas"}])
    assert int((pairs.segment_ids == 1).sum()) == 4
    assert encoder.truncated_names(int(pairs.truncated[0])) == ["query"]


@pytest.mark.parametrize("text", ["[SEP]", "[MASK] [CLS]", "[PAD]"])
def test_special_tokens_typed_by_a_user_are_ordinary_text(encoder: PairEncoder, text: str) -> None:
    pairs = encoder.encode(text, [{"title": text}])
    inner = pairs.input_ids[pairs.segment_ids > 0]
    assert len(inner) > 0
    assert not set(inner.tolist()) & {CLS, SEP, MASK, PAD}


def test_an_item_without_text_still_has_query_and_template(encoder: PairEncoder) -> None:
    assert encoder.encode("pay", [{}]).segment_ids.tolist() == [0, 1, 0, 0]


def test_glm_cloze_is_the_same_spec_with_other_parts(tokenizer: Tokenizer) -> None:
    template = (
        Special(kind="cls"), QueryPart(budget=4), FieldPart(name="title", budget=4), LiteralPart(text="relevant"),
        Special(kind="mask"), Special(kind="eos"), Special(kind="sop"),
    )  # fmt: skip
    special = SpecialIds(cls=CLS, eos=SEP, pad=PAD, mask=MASK, sop=1)
    spec = bert_spec(template=template, special_ids=special)
    pairs = PairEncoder(spec, tokenizer).encode("pay", [{"title": "gas bill"}])
    assert pairs.input_ids.tolist() == [CLS, *ids(tokenizer, "pay", "gas", "bill", "relevant"), MASK, SEP, 1]
    arrays = pairs.collate(pad_id=PAD)
    assert arrays["mask_index"].tolist() == [5]
    assert arrays["sep"].tolist() == [7]


def test_budgets_beyond_max_tokens_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="need 12 tokens, max_tokens is 10"):
        PairEncoder(bert_spec(max_tokens=10), tokenizer)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(5, 60))
def test_room_is_never_exceeded_and_never_wasted(title: int, tags: int, room: int) -> None:
    lengths = {"title": title, "tags": tags}
    kept = fit_to_budget(lengths, bert_spec(), room)
    assert sum(kept.values()) <= room
    assert all(min(lengths[name], budget) <= kept[name] for name, budget in (("title", 3), ("tags", 2)))
    assert sum(kept.values()) == room or kept == lengths


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5), st.text(max_size=20), st.data())
def test_take_and_concat_lose_nothing(texts: list[str], query: str, data: st.DataObject) -> None:
    encoder = PairEncoder(bert_spec(), _TOKENIZER)
    pairs = encoder.encode(query, [{"title": text} for text in texts])
    order = data.draw(st.permutations(range(len(texts))))
    taken = pairs.take(order)
    again = EncodedPairs.concat([taken.take([order.index(row)]) for row in range(len(texts))])
    np.testing.assert_array_equal(again.input_ids, pairs.input_ids)
    np.testing.assert_array_equal(again.offsets, pairs.offsets)


_TOKENIZER = load_tokenizer(minilm_path())


def test_canonical_text_is_one_line_in_one_form() -> None:
    assert canonical_text(["  a\tb\x00 ", "", "e\u0301"]) == "a b, \u00e9"
    assert canonical_text("שלום 🙂") == "שלום 🙂"


def test_keys_keep_fields_apart() -> None:
    spec = bert_spec()
    assert item_key(spec, {"title": "ab", "tags": "c"}) != item_key(spec, {"title": "a", "tags": "bc"})
    assert item_key(spec, {"title": "ab"}) == item_key(spec, {"title": " ab", "unknown": "x"})
    assert query_key("q") == query_key(" q ")
    assert query_key("q") != query_key("p")


def test_the_contract_package_does_not_import_torch() -> None:
    code = (
        "import sys, model_repo.cli, model_repo.runtime, model_repo.bundle; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
