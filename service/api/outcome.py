"""Counts every answer of the scoring route by model and status, those of failed validation too."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import HTTP_STATUSES, Metrics


class CountOutcome:
    """Statuses outside the known ones count as `other`, so that labels stay bounded."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/relevance":
            await self._app(scope, receive, send)
            return

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = str(message["status"])
                model = scope["state"].get("model", "none")
                self._metrics.requests.labels(model, status if status in HTTP_STATUSES else "other").inc()
            await send(message)

        await self._app(scope, receive, count)
