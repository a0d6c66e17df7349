"""From the text of a completion to its outputs: what is accepted, and what is rejected for which reason.

Pure functions of what the journal holds, so a changed rule is applied to old completions without asking again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from model_repo.text import canonical_text
from training.teacher.language import is_wrong_language, word_count
from training.teacher.prompts import OutputName, QueryAnswer, answer_model

ITEM_TAG = "</item>"
MAX_WORDS = {"summary": 60, "paraphrase": 80, "background": 120, "query": 16, "explanation": 40}
"""Twice what the prompt allows: a teacher that is a few words over is useful, one that rambles is not."""
MIN_WORDS = {"summary": 4, "paraphrase": 4, "background": 4, "query": 1, "explanation": 2}

# Answers as several public teachers word them; only the beginning counts, an item may well be about apologies.
_REFUSAL = re.compile(
    r"\s*(i['’]?m (very )?(sorry|unable)|i am (very )?(sorry|unable)|sorry[,.]|i (can ?not|can['’]t|won['’]t) |"
    r"as an ai|as a language model|unfortunately,? i |i do not have enough|n/?a\b|not applicable)",
    re.IGNORECASE,
)
_THINKING = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)


class RejectReason(StrEnum):
    """Every way in which a completion that was received can be useless."""

    REFUSAL = "refusal"
    TRUNCATED = "truncated"
    INVALID_JSON = "invalid-json"
    SCHEMA = "schema"
    TOO_SHORT = "too-short"
    TOO_LONG = "too-long"
    COPIES_TITLE = "copies-title"
    ECHOES_PROMPT = "echoes-prompt"
    WRONG_LANGUAGE = "wrong-language"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Rejection:
    """One output that is not used; `output` is "completion" where the whole answer is unusable."""

    output: str
    reason: RejectReason
    text: str


@dataclass(slots=True)
class Judged:
    """What a completion gave: outputs in the form of rcd.jsonl, and what was rejected."""

    accepted: dict[str, Any] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)


class Judge:
    """Applies the rules of one data set. Remembers accepted prose, so judge completions in the order of the items."""

    def __init__(self, language: str, outputs: Sequence[OutputName]) -> None:
        self._language = language
        self._outputs = outputs
        self._answer = answer_model(outputs)
        self._seen: set[tuple[str, str]] = set()

    def judge(self, content: str, *, title: str, finish_reason: str = "stop", refusal: str = "") -> Judged:
        """Accept what can be used. One bad output does not cost the others: all were paid for."""
        said = _THINKING.sub("", content).strip()
        whole = _whole_rejection(said, finish_reason, refusal)
        if whole:
            return _nothing(whole, refusal or content)
        try:
            answer = self._answer.model_validate(extract_json(said))
        except ValidationError as error:
            return _nothing(RejectReason.SCHEMA, _named(error, said))
        except (ValueError, RecursionError):
            return _nothing(RejectReason.INVALID_JSON, content)
        judged = Judged()
        for name in self._outputs:
            value = getattr(answer, name)
            if name == "queries":
                self._judge_queries(value, title, judged)
            else:
                self._judge_prose(name, canonical_text(value), title, judged)
        return judged

    def _judge_prose(self, name: str, text: str, title: str, judged: Judged) -> None:
        reason = self._fault(name, text, title)
        # Two items with the same prose: the teacher wrote about neither.
        if reason is None and (name, text.casefold()) in self._seen:
            reason = RejectReason.DUPLICATE
        if reason:
            judged.rejected.append(Rejection(name, reason, text))
        else:
            self._seen.add((name, text.casefold()))
            judged.accepted[name] = text

    def _judge_queries(self, answers: list[QueryAnswer], title: str, judged: Judged) -> None:
        kept: dict[str, dict[str, str]] = {}
        for answer in answers:
            query, explanation = canonical_text(answer.query), canonical_text(answer.explanation)
            reason = self._fault("query", query, title) or self._fault("explanation", explanation, title)
            if reason is None and query.casefold() in kept:
                reason = RejectReason.DUPLICATE
            if reason:
                judged.rejected.append(Rejection("queries", reason, f"{query} | {explanation}"))
            else:
                kept[query.casefold()] = {"query": query, "explanation": explanation}
        if kept:
            judged.accepted["queries"] = list(kept.values())
        elif not answers:
            judged.rejected.append(Rejection("queries", RejectReason.TOO_SHORT, "[]"))

    def _fault(self, kind: str, text: str, title: str) -> RejectReason | None:
        words = word_count(text)
        # Queries may well begin with "I can't": people type so.
        if kind != "query" and _REFUSAL.match(text):
            return RejectReason.REFUSAL
        if words < MIN_WORDS[kind]:
            return RejectReason.TOO_SHORT
        if words > MAX_WORDS[kind]:
            return RejectReason.TOO_LONG
        if text.casefold().strip(" .") == title.casefold().strip(" ."):
            return RejectReason.COPIES_TITLE
        if ITEM_TAG in text:
            return RejectReason.ECHOES_PROMPT
        return RejectReason.WRONG_LANGUAGE if is_wrong_language(text, self._language) else None


def extract_json(content: str) -> dict[str, Any]:
    """The JSON object of a text that may have a code fence or sentences around it.

    Raises ValueError when there is none, or when it escapes half of a surrogate pair, which no file could hold.
    Only the first brace is tried: where that object is broken, one inside it would pass for the answer.
    """
    start = content.find("{")
    if start < 0:
        raise ValueError("no JSON object")
    value, _ = json.JSONDecoder().raw_decode(content, start)
    json.dumps(value, ensure_ascii=False).encode()
    return dict(value)


def _whole_rejection(content: str, finish_reason: str, refusal: str) -> RejectReason | None:
    if refusal or finish_reason == "content_filter" or _REFUSAL.match(content):
        return RejectReason.REFUSAL
    if finish_reason == "length":
        return RejectReason.TRUNCATED
    return None


def _nothing(reason: RejectReason, text: str) -> Judged:
    return Judged(rejected=[Rejection("completion", reason, text)])


def _named(error: ValidationError, content: str) -> str:
    found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
    return f"{found}: {content}"
