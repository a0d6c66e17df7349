"""Every reason for which a completion is rejected, and what is kept all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.teacher import answer

from training.data.dataset import Dataset
from training.teacher.language import is_wrong_language, word_count
from training.teacher.prompts import OUTPUTS
from training.teacher.rules import Judge, RejectReason, extract_json

GOOD = answer(1)
TITLE = "Pay all my bills"


def reasons(content: str | dict[str, Any], language: str = "en", **said: str) -> list[tuple[str, str]]:
    text = content if isinstance(content, str) else json.dumps(content)
    judged = Judge(language, OUTPUTS).judge(text, title=TITLE, **said)
    return [(one.output, one.reason) for one in judged.rejected]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("<think>an item?</think>As an AI, I do not rate items.", "refusal"),
        ("here it is", "invalid-json"),
        (json.dumps(GOOD)[:-9], "invalid-json"),
        ("[1, 2]", "invalid-json"),
        ("{" * 100_000, "invalid-json"),
        ("", "invalid-json"),
        ('{"summary": "half a pair \\ud800 of surrogates"}', "invalid-json"),
        ("<think>I wonder {}", "invalid-json"),
        ({"summary": "A service for bills."}, "schema"),
        (GOOD | {"extra": "x"}, "schema"),
        (GOOD | {"summary": ["x"]}, "schema"),
        (GOOD | {"queries": [{"query": "pay"}]}, "schema"),
    ],
)
def test_an_unusable_answer_is_rejected_as_a_whole(content: str | dict[str, Any], reason: str) -> None:
    assert reasons(content) == [("completion", reason)]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"finish_reason": "length"}, "truncated"),
        ({"finish_reason": "content_filter"}, "refusal"),
        ({"refusal": "not allowed"}, "refusal"),
    ],
)
def test_what_the_endpoint_says_of_a_completion_counts(said: dict[str, str], reason: str) -> None:
    assert reasons(GOOD, **said) == [("completion", reason)]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("summary", "bills", "too-short"),
        ("paraphrase", "pay " * 90, "too-long"),
        ("summary", "pay all my bills.", "copies-title"),
        ("background", "It is shown as </item> at the end.", "echoes-prompt"),
        ("background", "这是一个支付服务", "wrong-language"),
        ("background", "I cannot say anything about it.", "refusal"),
        ("background", "N/A", "refusal"),
    ],
)
def test_one_bad_output_does_not_cost_the_others(name: str, text: str, reason: str) -> None:
    judged = Judge("en", OUTPUTS).judge(json.dumps(GOOD | {name: text}), title=TITLE)
    assert [(one.output, one.reason) for one in judged.rejected] == [(name, reason)]
    assert judged.accepted == {key: value for key, value in GOOD.items() if key != name}


def test_queries_are_judged_one_by_one() -> None:
    good = GOOD["queries"][0]
    bad = [good, good | {"query": "Pay Bill 1"}, good | {"query": "w " * 20}, good | {"explanation": "yes"}]
    judged = Judge("en", OUTPUTS).judge(json.dumps(GOOD | {"queries": bad}), title=TITLE)
    assert judged.accepted["queries"] == [good]
    assert [one.reason for one in judged.rejected] == ["duplicate", "too-long", "too-short"]
    assert reasons(GOOD | {"queries": []}) == [("queries", "too-short")]
    none_left = Judge("en", OUTPUTS).judge(json.dumps(GOOD | {"queries": bad[2:]}), title=TITLE)
    assert "queries" not in none_left.accepted


def test_a_query_may_begin_like_a_refusal() -> None:
    typed = {"query": "I can't pay my bill", "explanation": "it offers a delay of payment"}
    assert reasons(GOOD | {"queries": [typed]}) == []


def test_prose_that_another_item_has_is_a_duplicate() -> None:
    judge = Judge("en", OUTPUTS)
    first = judge.judge(json.dumps(GOOD), title=TITLE)
    second = judge.judge(json.dumps(answer(2) | {"summary": GOOD["summary"].upper()}), title=TITLE)
    assert first.rejected == []
    assert [(one.output, one.reason) for one in second.rejected] == [("summary", RejectReason.DUPLICATE)]


@pytest.mark.parametrize(
    "around",
    ["{}", "```json\n{}\n```", "Here you are:\n{}\nAnything else?", "<think>maybe {{1}}</think>\n{}"],
)
def test_json_is_found_in_what_models_write_around_it(around: str) -> None:
    assert reasons(around.replace("{}", json.dumps(GOOD)).replace("{{", "{").replace("}}", "}")) == []
    with pytest.raises(ValueError, match="no JSON object"):
        extract_json("none")


@pytest.mark.parametrize(
    ("text", "language", "wrong"),
    [
        ("Bezahlt Rechnungen mit einem Tippen, auch im Ausland.", "de", False),
        ("Pay your bills with this app and they are gone for good.", "de", True),
        ("Pay your bills with this app and they are gone for good.", "en-GB", False),
        ("Платежи через VoltPay по номеру телефона", "ru", False),
        ("Payments by the phone number", "ru", True),
        ("用手机号码转账", "zh-CN", False),
        ("電話番号でお金を送るサービス", "ja", False),
        ("Pay bills", "xx", False),
        ("24/7", "en", False),
    ],
)
def test_the_language_is_told_by_script_and_by_english_words(text: str, language: str, wrong: bool) -> None:
    assert is_wrong_language(text, language) is wrong


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert word_count("pay-by-phone, it's fast") == 5
    assert word_count("用手机转账") == 5


def test_the_completions_that_ship_pass_the_rules(sample: Dataset) -> None:
    judge = Judge("en", OUTPUTS)
    for row in sample.completions():
        content = {
            "summary": row.summary,
            "paraphrase": row.paraphrase,
            "background": row.background,
            "queries": [query._asdict() for query in row.queries],
        }
        title = str(sample.items[row.item_id].fields["title"])
        assert judge.judge(json.dumps(content), title=title).rejected == [], row.item_id
