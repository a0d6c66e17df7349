"""POST /relevance: body to query, results to answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence

from fastapi import APIRouter, Request, Response

from model_repo.text import canonical_text
from service.api.schemas import (
    ExplanationOut,
    FallbackOut,
    ItemIn,
    Problem,
    RelevanceRequest,
    RelevanceResponse,
    ResultOut,
    TimingsOut,
)
from service.api.state import State
from service.errors import InvalidError, TooLargeError
from service.models import LoadedModel
from service.scoring import Fields, Query, Result, Timings
from service.settings import Settings

_log = logging.getLogger("service.access")
_STATUSES = (400, 404, 413, 422, 429, 503, 504)
router = APIRouter()


@router.post("/relevance", responses={status: {"model": Problem} for status in _STATUSES})
async def relevance(body: RelevanceRequest, request: Request, response: Response) -> RelevanceResponse:
    """Score every item for the query. Results keep the order of the request unless `sort`."""
    state: State = request.state.service
    _check_limits(body, state.settings)
    model = state.models.get(body.model, body.version)
    request.state.model = model.bundle.name
    items, ignored = _fields(body, model)
    query = Query(
        text=body.query,
        items=items,
        deadline=request.state.received + (body.deadline_ms or state.settings.default_deadline_ms) / 1e3,
        priority=body.priority,
        use_cache="no-store" not in request.headers.get("cache-control", "").lower(),
        allow_partial=body.allow_partial,
        fallback=body.fallback,
        explain=body.explain,
    )
    results, timings = await _unless_gone(request, state.scorer.score(model, query))
    answer = RelevanceResponse(
        request_id=request.state.request_id,
        model=model.bundle.name,
        version=model.bundle.version,
        fingerprint=model.bundle.fingerprint,
        numerics=model.engine.numerics,
        page_id=body.page_id,
        results=_ordered(body, [_out(body, index, result) for index, result in enumerate(results)]),
        ignored_fields=ignored,
        timings_ms=_timings(timings, request),
    )
    _report(state, request, response, answer)
    return answer


def _check_limits(body: RelevanceRequest, settings: Settings) -> None:
    """Limits that are settings, and rules that cross fields."""
    if not canonical_text(body.query):
        raise InvalidError("must hold text", field="query")
    if len(body.query) > settings.max_query_chars:
        raise InvalidError(f"is longer than {settings.max_query_chars} characters", field="query")
    if len(body.items) > settings.max_items:
        raise TooLargeError(
            f"{len(body.items)} items, at most {settings.max_items}; split the request", field="items"
        )
    if body.variant not in (None, "control"):
        raise InvalidError(f"no experiment has a variant {body.variant!r}", field="variant")
    for index, item in enumerate(body.items):
        for name, value in ({"": item} if isinstance(item, str) else item.fields).items():
            if sum(map(len, value)) > settings.max_field_chars:
                path = f"items[{index}]" + (f".fields.{name}" if name else "")
                raise InvalidError(f"is longer than {settings.max_field_chars} characters", field=path)


def _fields(body: RelevanceRequest, model: LoadedModel) -> tuple[list[Fields], list[str]]:
    """Fields of each item as the model knows them, and the names it does not know."""
    spec = model.bundle.manifest.spec
    ignored: dict[str, None] = {}
    items: list[Fields] = []
    for item in body.items:
        if isinstance(item, str):
            items.append({spec.plain_text_field: item})
        else:
            ignored |= dict.fromkeys(name for name in item.fields if name not in spec.segments)
            items.append({name: value for name, value in item.fields.items() if name in spec.segments})
    return items, list(ignored)


async def _unless_gone(
    request: Request, scoring: Coroutine[None, None, tuple[list[Result], Timings]]
) -> tuple[list[Result], Timings]:
    """Await the scores, but stop when the client leaves: pairs that still wait are then not computed."""
    work = asyncio.create_task(scoring)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
        return await work
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _out(body: RelevanceRequest, index: int, result: Result) -> ResultOut:
    item = body.items[index]
    explained = result.explanation
    return ResultOut(
        id=item.id if isinstance(item, ItemIn) and item.id is not None else str(index),
        relevance=result.relevance,
        grade=result.grade,
        status=result.status,
        cached=result.cached,
        truncated=result.truncated,
        tokens=result.tokens,
        fallback=FallbackOut.model_validate(dict(zip(("kind", "score"), result.fallback, strict=True)))
        if result.fallback
        else None,
        explain=[ExplanationOut(field=n, logit_delta=d) for n, d in explained]
        if explained is not None
        else None,
    )


def _ordered(body: RelevanceRequest, results: Sequence[ResultOut]) -> list[ResultOut]:
    """Sorting is stable and puts what has no score last; a fallback never competes with a score."""
    if body.sort:
        results = sorted(results, key=lambda r: (r.relevance is None, -(r.relevance or 0.0)))
    return list(results[: body.top_n])


def _timings(timings: Timings, request: Request) -> TimingsOut:
    total = (time.monotonic() - request.state.received) * 1e3
    values: Mapping[str, float] = {
        "total": total,
        "cache": timings.cache,
        "tokenize": timings.tokenize,
        "queue": timings.queue,
        "inference": timings.inference,
    }
    return TimingsOut(**{name: round(value, 3) for name, value in values.items()})


def _report(state: State, request: Request, response: Response, answer: RelevanceResponse) -> None:
    """Headers, metrics and one log line; no text of the caller in any of them."""
    stages = answer.timings_ms.model_dump()
    response.headers["server-timing"] = ", ".join(f"{name};dur={value}" for name, value in stages.items())
    for name in ("cache", "tokenize", "queue", "inference"):
        response.headers[f"x-{name}-time"] = f"{stages[name]:.3f}"
    for name, value in stages.items():
        state.metrics.stage_seconds.labels(name).observe(value / 1e3)
    _log.info(
        "scored",
        extra={
            "request_id": answer.request_id,
            "model": answer.model,
            "version": answer.version,
            "items": len(answer.results),
            "timings_ms": stages,
        },
    )
