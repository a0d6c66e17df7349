"""A teacher below the openai client: a transport that answers, fails or counts as a test tells it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from training.teacher.client import Endpoint, TeacherClient

CARD = {
    "name": "shop",
    "language": "en",
    "licence": "CC0-1.0",
    "item_fields": [{"name": "title", "role": "title"}, {"name": "about", "role": "body"}],
    "labels": {"scale": [0, 1], "relevant_from": 1},
}


def shop(folder: Path, count: int = 6) -> Path:
    """A data set folder with items "i0", "i1"..., whose title names them: `Item 0`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(CARD))
    rows = [
        {"item_id": f"i{n}", "fields": {"title": f"Item {n}", "about": f"pays bill {n}"}}
        for n in range(count)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def answer(number: int | str) -> dict[str, Any]:
    """A completion about item `number` that every rule accepts."""
    return {
        "summary": f"A payment service for the bills of house {number}.",
        "paraphrase": f"You tap once and bill {number} is gone for good.",
        "background": f"People in house {number} also call this a standing order.",
        "queries": [{"query": f"pay bill {number}", "explanation": f"it settles bill {number} in one step"}],
    }


def completion(
    content: str | dict[str, Any], *, finish_reason: str = "stop", usage: bool = True
) -> httpx2.Response:
    """A chat completion of 100 tokens in and 50 out."""
    text = content if isinstance(content, str) else json.dumps(content)
    body: dict[str, Any] = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "teacher-1",
        "choices": [
            {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
        ],
    }
    if usage:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    return httpx2.Response(200, json=body)


def refused(status: int, message: str = "no", *, code: str | None = None, **headers: str) -> httpx2.Response:
    """An error in OpenAI's form; header names are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, json={"error": {"message": message, "code": code}}, headers=named)


def asked_item(request: httpx2.Request) -> str:
    """The number of the shop's item that a request is about."""
    user = json.loads(request.content)["messages"][-1]["content"]
    return str(json.loads(user.removeprefix("<item>\n").removesuffix("\n</item>"))["title"].split()[-1])


class FakeTeacher:
    """Answers by `handle(request)`, by default well; remembers every request in `requests`."""

    def __init__(self, handle: Callable[[httpx2.Request], httpx2.Response] | None = None) -> None:
        self._handle = handle or (lambda request: completion(answer(asked_item(request))))
        self.requests: list[httpx2.Request] = []

    @property
    def asked(self) -> list[str]:
        return [asked_item(request) for request in self.requests]

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._handle(request)

    def client(self, **options: Any) -> TeacherClient:
        url, model = options.pop("url", "http://teacher.test/v1"), options.pop("model", "teacher-1")
        endpoint = Endpoint(url, model, **options)
        return TeacherClient(endpoint, http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(self)))
