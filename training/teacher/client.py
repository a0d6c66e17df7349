"""One completion from an OpenAI-compatible endpoint, with time-outs, retries and clear refusals.

Knows no item. Retries are ours and the openai client's own are off (`max_retries=0`): its time-out restarts with
every byte, so a server that sends blank lines to keep the connection open hangs it; it waits 8 s at most, too little
for an overnight job that meets a restarting server; and two mechanisms would multiply the attempts.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from training.teacher.errors import TeacherError
from training.teacher.failures import CallFailed, NoCompletion, describe, raise_if_final, retry_after
from training.teacher.prompts import Message, OutputName, response_format

if TYPE_CHECKING:
    import httpx2

Structured = Literal["json_schema", "json_object", "text"]


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

    @property
    def shown(self) -> str:
        """The URL without user and password, for messages."""
        return without_credentials(self.url)


def without_credentials(url: str) -> str:
    """Whatever stands before the last @ may be a password, the scheme apart."""
    before, at, rest = url.rpartition("@")
    scheme, slashes, _ = before.partition("://")
    return scheme + slashes + rest if at and slashes else rest


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
            except (openai.APIError, TimeoutError, ValueError, NoCompletion) as error:
                wait = self._wait(error, attempt)
                if attempt == self.endpoint.attempts:
                    raise CallFailed(f"{describe(error)}, after {attempt} attempts") from error
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
            raise_if_final(error, self.endpoint.shown)
            asked = retry_after(error.response.headers)
            if asked is not None and asked > self.endpoint.max_wait_s:
                raise TeacherError(f"{describe(error)}: asks to wait {asked:.0f} s; run again then")
            if asked:  # "0" would spend all attempts within milliseconds
                return asked
        backoff = min(self.endpoint.max_wait_s, self.endpoint.first_wait_s * 2.0 ** (attempt - 1))
        # Half of the wait is random, or all workers that one refusal hit would come back at one moment.
        return backoff * random.uniform(0.5, 1.0)


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
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        raise TeacherError(f"--endpoint {without_credentials(url)!r}: write it like http://localhost:8000/v1")
    return url


def _reply(completion: object) -> Reply:
    """The openai client validates nothing, so a page of HTML or half a completion arrives here too."""
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        error = (getattr(completion, "model_extra", None) or {}).get("error")
        raise NoCompletion(f"HTTP 200 without a completion: {error or str(completion)}")
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
        raise NoCompletion(f"HTTP 200 without a completion: {error}") from error
