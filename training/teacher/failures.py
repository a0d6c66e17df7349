"""What an error of an endpoint means: try again, give up this item, or end the job. Knows no request."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping

import openai

from training.teacher.errors import TeacherError

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


class NoCompletion(Exception):
    """A 200 without a completion: gateways report errors of the server behind them so."""


def raise_if_final(error: openai.APIStatusError, url: str) -> None:
    """Return when another attempt may succeed; else raise TeacherError (every item would meet it) or CallFailed."""
    status = error.status_code
    if status in _FATAL_STATUS:
        raise TeacherError(f"{url}: {describe(error)}; {_FATAL_STATUS[status]}") from error
    if error.code == "insufficient_quota":  # OpenAI's 429 that waiting does not cure
        raise TeacherError(f"{url}: {describe(error)}") from error
    if status in _RETRY_STATUS or status >= 500:
        return
    if "response_format" in _said(error):
        remedy = "use --structured json_object or --structured text"
        raise TeacherError(f"{url}: {describe(error)}; {remedy}") from error
    if "max_completion_tokens" in _said(error):
        remedy = "use --limit-parameter max_completion_tokens"
        raise TeacherError(f"{url}: {describe(error)}; {remedy}") from error
    raise CallFailed(describe(error)) from error


def describe(error: Exception) -> str:
    """One line of bounded length."""
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: {_one_line(_said(error))}"
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return "no answer in time"
    if isinstance(error, openai.APIConnectionError):
        return f"no connection: {_one_line(str(error.__cause__ or error))}"
    return _one_line(str(error)) or type(error).__name__


def _said(error: openai.APIStatusError) -> str:
    """The server's own words, whatever their form: the client's message holds them for OpenAI's form alone."""
    prefix = f"Error code: {error.status_code}"
    said = error.message.removeprefix(prefix).removeprefix(" - ")
    return said or error.response.text


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_MESSAGE]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (seconds or a date); None where absent or unreadable."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers["retry-after"]))
    except KeyError:
        return None
    except ValueError:
        parsed = email.utils.parsedate_tz(headers.get("retry-after", ""))
        return max(0.0, email.utils.mktime_tz(parsed) - time.time()) if parsed else None
