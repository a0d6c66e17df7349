"""Time-outs, retries and refusals, with a transport below the openai client."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from typing import Any

import httpx2
import pytest
from support.teacher import FakeTeacher, answer, completion, refused

from training.teacher import client as client_module
from training.teacher.client import Endpoint, Reply, TeacherClient, api_key
from training.teacher.errors import TeacherError
from training.teacher.failures import CallFailed
from training.teacher.prompts import OUTPUTS, messages_for

MESSAGES = messages_for('<item>\n{"title": "Item 1"}\n</item>', "en", OUTPUTS)
GOOD = answer(1)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Back-off takes no time here; the seconds it would have waited are listed."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(client_module.asyncio, "sleep", sleep)
    return waited


def ask(client: TeacherClient) -> Reply:
    async def run() -> Reply:
        async with client:
            return await client.ask(MESSAGES, OUTPUTS)

    return asyncio.run(run())


def in_turn(*outcomes: httpx2.Response | Exception) -> FakeTeacher:
    left = iter(outcomes)

    def handle(_: httpx2.Request) -> httpx2.Response:
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return FakeTeacher(handle)


def body(teacher: FakeTeacher) -> dict[str, Any]:
    return dict(json.loads(teacher.requests[-1].content))


def test_a_completion_arrives_with_its_usage() -> None:
    teacher = in_turn(completion(GOOD))
    reply = ask(teacher.client())
    assert (json.loads(reply.content), reply.prompt_tokens, reply.completion_tokens) == (GOOD, 100, 50)
    assert body(teacher)["model"] == "teacher-1"
    assert body(teacher)["max_tokens"] == 1000
    assert "temperature" not in body(teacher)
    assert body(teacher)["response_format"]["json_schema"]["strict"] is True


def test_the_form_of_the_request_is_a_setting() -> None:
    teacher = in_turn(completion(GOOD), completion(GOOD, usage=False))
    ask(teacher.client(structured="json_object", limit_parameter="max_completion_tokens", temperature=0.5))
    assert body(teacher)["response_format"] == {"type": "json_object"}
    assert (body(teacher)["max_completion_tokens"], body(teacher)["temperature"]) == (1000, 0.5)
    reply = ask(teacher.client(structured="text"))
    assert "response_format" not in body(teacher)
    assert (reply.prompt_tokens, reply.completion_tokens) == (None, None)


@pytest.mark.parametrize(
    "outcome",
    [
        refused(429),
        refused(408),
        refused(500),
        refused(503),
        httpx2.ConnectError("refused"),
        httpx2.ReadTimeout("slow"),
        httpx2.RemoteProtocolError("closed"),
        httpx2.Response(200, text="<html>proxy</html>"),
        httpx2.Response(200, text="{half", headers={"content-type": "application/json"}),
        httpx2.Response(200, json={"error": {"message": "upstream is down"}}),
        httpx2.Response(200, json={"id": "x", "choices": [{"index": 0}]}),
    ],
    ids=lambda outcome: f"{outcome!r} {getattr(outcome, 'text', '')[:20]}",
)
def test_what_may_pass_is_tried_again(outcome: httpx2.Response | Exception, waits: list[float]) -> None:
    teacher = in_turn(outcome, outcome, completion(GOOD))
    client = teacher.client()
    assert json.loads(ask(client).content) == GOOD
    assert client.retries == 2
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2
    assert len(teacher.requests) == 3, "the openai client must not retry on its own"


def test_waits_double_up_to_the_longest_and_end_with_the_last_attempt(waits: list[float]) -> None:
    teacher = FakeTeacher(lambda _: refused(503, "restarting"))
    with pytest.raises(CallFailed, match=r"HTTP 503: .*restarting.*, after 9 attempts"):
        ask(teacher.client(attempts=9))
    longest = [1, 2, 4, 8, 16, 32, 60, 60]
    assert len(waits) == len(longest)
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert len(set(waits)) == len(waits)


IN_30_S = "a date in 30 s"


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry_after": "7"}, 7, 7),
        ({"retry_after_ms": "250"}, 0.25, 0.25),
        ({"retry_after": IN_30_S}, 20, 31),
        ({"retry_after": "Mon, 01 Jan 2001 00:00:00 GMT"}, 0.5, 1),
        ({"retry_after": "0"}, 0.5, 1),
        ({"retry_after": "soon"}, 0.5, 1),
    ],
)
def test_retry_after_is_honoured(
    headers: dict[str, str], least: float, most: float, waits: list[float]
) -> None:
    # A date is written when the test runs: the suite may reach it long after reading the file.
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    headers = {name: value.replace(IN_30_S, date) for name, value in headers.items()}
    ask(in_turn(refused(429, **headers), completion(GOOD)).client())
    assert least <= waits[0] <= most


def test_a_long_retry_after_ends_the_job_instead_of_being_cut_short(waits: list[float]) -> None:
    with pytest.raises(TeacherError, match="asks to wait 3600 s; run again then"):
        ask(in_turn(refused(429, "daily limit", retry_after="3600")).client())
    assert waits == []


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (refused(401, "bad key"), r"HTTP 401: .*bad key.*; set CPRM_TEACHER_API_KEY"),
        (refused(402, "no credit"), r"HTTP 402.*no credit left"),
        (refused(403, "not yours"), r"HTTP 403.*may not use"),
        (refused(404, "no such model"), r"HTTP 404: .*no such model.*; check --model"),
        (refused(429, "quota", code="insufficient_quota"), r"HTTP 429: .*quota"),
        (refused(422, "Unsupported fields: response_format"), r"use --structured json_object or"),
        (refused(400, "use max_completion_tokens"), r"use --limit-parameter max_completion_tokens"),
    ],
)
def test_what_would_meet_every_item_stops_at_once_in_one_line(outcome: httpx2.Response, message: str) -> None:
    teacher = in_turn(outcome)
    with pytest.raises(TeacherError, match=message) as caught:
        ask(teacher.client())
    assert len(teacher.requests) == 1
    assert "\n" not in str(caught.value)


def test_a_request_refused_for_its_own_content_fails_alone() -> None:
    teacher = in_turn(refused(400, "context length exceeded\n" + "x" * 5000))
    with pytest.raises(CallFailed, match=r"HTTP 400: .*context length exceeded x+") as caught:
        ask(teacher.client())
    assert len(teacher.requests) == 1
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "outcome",
    [
        httpx2.Response(400, json={"detail": "context too long"}),
        httpx2.Response(400, json={"message": "context too long"}),
        httpx2.Response(400, text="context too long"),
    ],
)
def test_errors_of_any_form_keep_the_servers_words(outcome: httpx2.Response) -> None:
    with pytest.raises(CallFailed, match=r"^HTTP 400: .*context too long"):
        ask(in_turn(outcome).client())


class Dripping(httpx2.AsyncByteStream):
    """Blank bytes for ever, as gateways send them to keep a connection open."""

    async def __aiter__(self) -> Any:
        while True:
            await asyncio.sleep(0.01)
            yield b"\n"


def test_a_server_that_drips_bytes_is_timed_out_all_the_same() -> None:
    outcomes = [httpx2.Response(200, stream=Dripping()), completion(GOOD)]
    client = in_turn(*outcomes).client(timeout_s=0.2, first_wait_s=0.01)
    started = time.monotonic()
    assert json.loads(ask(client).content) == GOOD
    assert 0.2 <= time.monotonic() - started < 2


def test_the_openai_key_is_sent_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CPRM_TEACHER_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert api_key("https://api.openai.com/v1") == "sk-openai"
    assert api_key("https://openai.com.evil.test/v1") == "none"
    assert api_key("http://localhost:8000/v1") == "none"
    monkeypatch.setenv("CPRM_TEACHER_API_KEY", "own")
    assert api_key("http://localhost:8000/v1") == "own"
    teacher = in_turn(completion(GOOD))
    ask(teacher.client())
    assert teacher.requests[0].headers["authorization"] == "Bearer own"
    assert str(teacher.requests[0].url) == "http://teacher.test/v1/chat/completions"


def test_a_url_without_scheme_is_explained() -> None:
    with pytest.raises(TeacherError, match="write it like http://localhost:8000/v1"):
        TeacherClient(Endpoint("localhost:8000/v1", "m"))


@pytest.mark.parametrize(
    "url", ["http://me:se@cret@host:8000/v1", "http://me:secret@host:x/v1", "me:secret@host"]
)
def test_a_password_in_the_url_is_not_said(url: str) -> None:
    with pytest.raises(TeacherError) as error:
        ask(in_turn(refused(401)).client(url=url))
    assert "cret" not in str(error.value)
    assert "host" in str(error.value)
