"""One completion from an OpenAI-compatible endpoint, with time-outs, retries and clear refusals.

Knows no item. Retries are ours and the openai client's own are off (`max_retries=0`): its time-out restarts with
every byte, so a server that sends blank lines to keep the connection open hangs it; it waits 8 s at most, too little
for an overnight job that meets a restarting server; and two mechanisms would multiply the attempts.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from training.teacher.errors import TeacherError
from training.teacher.prompts import Message, OutputName, response_format

if TYPE_CHECKING:
    import httpx2

Structured = Literal["json_schema", "json_object", "text"]

# Wrong key, no money, no permission, no such model or route: the next item would meet the same.
_FATAL_STATUS = {
    401: "set CPRM_TEACHER_API_KEY (OPENAI_API_KEY is sent to openai.com alone)",
    402: "the account has no credit left",
    403: "the key may not use this model",
    404: "check --model, and that --endpoint ends in /v1",
}
_RETRY_STATUS = frozenset({408, 409, 425, 429})
_MAX_MESSAGE = 300


class CallFailed(Exception):
    """One call gave no completion, after all attempts; another item may fare better."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where completions come from and how long to wait for one."""

    url: str
    model: str
    structured: Structured = "json_schema"
    """How the answer's form is asked for; "text" for servers that refuse `response_format`."""
    timeout_s: float = 120.0
    """Wall-clock time of one attempt, from sending to the last byte."""
    attempts: int = 8
    first_wait_s: float = 1.0
    max_wait_s: float = 60.0
    """Waits double from the first to the longest, each cut by a random half; a longer Retry-After ends the job."""
    max_tokens: int = 1000
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Reasoning models of OpenAI accept the second alone; most other servers know the first."""
    temperature: float | None = None
    """Not sent unless set: some models refuse it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion as received. Token counts are None where the server does not report them."""

    content: str
    refusal: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None


class TeacherClient:
    """Asks one endpoint. Close it with `async with`."""

    def __init__(self, endpoint: Endpoint, *, http_client: httpx2.AsyncClient | None = None) -> None:
        """Raises TeacherError for a URL without http(s). `http_client` replaces the network in tests."""
        self.endpoint = endpoint
        self.retries = 0
        self._client = openai.AsyncOpenAI(
            base_url=_checked(endpoint.url),
            api_key=api_key(endpoint.url),
            max_retries=0,
            timeout=endpoint.timeout_s,
            http_client=http_client,
        )

    async def __aenter__(self) -> TeacherClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, messages: Sequence[Message], outputs: Sequence[OutputName]) -> Reply:
        """One completion. Raises TeacherError for what would meet every item, CallFailed for what met this one."""
        request = self._request(messages, outputs)
        for attempt in range(1, self.endpoint.attempts + 1):
            try:
                async with asyncio.timeout(self.endpoint.timeout_s):
                    return _reply(await self._client.chat.completions.create(**request))
            # ValueError: a body that says it is JSON and is not.
            except (openai.APIError, TimeoutError, ValueError, _NoChoice) as error:
                wait = self._wait(error, attempt)
                if attempt == self.endpoint.attempts:
                    raise CallFailed(f"{_describe(error)}, after {attempt} attempts") from error
            self.retries += 1
            await asyncio.sleep(wait)
        raise ValueError("attempts must be at least 1")

    def _request(self, messages: Sequence[Message], outputs: Sequence[OutputName]) -> dict[str, Any]:
        point = self.endpoint
        request: dict[str, Any] = {
            "model": point.model,
            "messages": [message._asdict() for message in messages],
            point.limit_parameter: point.max_tokens,
        }
        if point.structured != "text":
            request["response_format"] = response_format(point.structured, outputs)
        if point.temperature is not None:
            request["temperature"] = point.temperature
        return request

    def _wait(self, error: Exception, attempt: int) -> float:
        """Seconds before the next attempt; raises when there should be none."""
        if isinstance(error, openai.APIStatusError):
            _refuse(error, self.endpoint)
            asked = _retry_after(error.response.headers, time.time)
            if asked is not None and asked > self.endpoint.max_wait_s:
                raise TeacherError(f"{_describe(error)}: asks to wait {asked:.0f} s; run again then")
            if asked is not None:
                return asked
        backoff = min(self.endpoint.max_wait_s, self.endpoint.first_wait_s * 2.0 ** (attempt - 1))
        # Half of the wait is random, or all workers that one refusal hit would come back at one moment.
        return backoff * random.uniform(0.5, 1.0)


class _NoChoice(Exception):
    """A 200 without a completion: gateways report errors of the server behind them so."""


def api_key(url: str) -> str:
    """CPRM_TEACHER_API_KEY; for openai.com also OPENAI_API_KEY, which must not leak to other hosts."""
    key = os.environ.get("CPRM_TEACHER_API_KEY")
    if key:
        return key
    host = urlsplit(url).hostname or ""
    if host == "openai.com" or host.endswith(".openai.com"):
        return os.environ.get("OPENAI_API_KEY") or "none"
    return "none"  # local servers ask for no key, the client insists on one


def _checked(url: str) -> str:
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise TeacherError(f"--endpoint {url!r}: write it like http://localhost:8000/v1")
    return url


def _reply(completion: object) -> Reply:
    """The openai client validates nothing, so a page of HTML or half a completion arrives here too."""
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        error = (getattr(completion, "model_extra", None) or {}).get("error")
        raise _NoChoice(f"HTTP 200 without a completion: {error or str(completion)}")
    choice, usage = completion.choices[0], completion.usage
    try:
        return Reply(
            content=choice.message.content or "",
            refusal=choice.message.refusal or "",
            finish_reason=choice.finish_reason or "stop",
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
        )
    except AttributeError as error:
        raise _NoChoice(f"HTTP 200 without a completion: {error}") from error


def _refuse(error: openai.APIStatusError, endpoint: Endpoint) -> None:
    """Raise for a status that no further attempt would change."""
    status = error.status_code
    if status in _FATAL_STATUS:
        raise TeacherError(f"{endpoint.url}: {_describe(error)}; {_FATAL_STATUS[status]}") from error
    if error.code == "insufficient_quota":  # OpenAI's 429 that waiting does not cure
        raise TeacherError(f"{endpoint.url}: {_describe(error)}") from error
    if status in _RETRY_STATUS or status >= 500:
        return
    if "response_format" in error.message:
        remedy = "use --structured json_object or --structured text"
        raise TeacherError(f"{endpoint.url}: {_describe(error)}; {remedy}") from error
    if "max_completion_tokens" in error.message:
        remedy = "use --limit-parameter max_completion_tokens"
        raise TeacherError(f"{endpoint.url}: {_describe(error)}; {remedy}") from error
    raise CallFailed(_describe(error)) from error


def _describe(error: Exception) -> str:
    if isinstance(error, openai.APIStatusError):
        said = error.message.removeprefix(f"Error code: {error.status_code} - ")
        return f"HTTP {error.status_code}: {_one_line(said)}"
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return "no answer in time"
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_MESSAGE]


def _retry_after(headers: Mapping[str, str], now: Callable[[], float]) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (seconds or a date); None where absent or unreadable."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers["retry-after"]))
    except KeyError:
        return None
    except ValueError:
        parsed = email.utils.parsedate_tz(headers.get("retry-after", ""))
        return max(0.0, email.utils.mktime_tz(parsed) - now()) if parsed else None
