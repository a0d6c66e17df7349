"""Errors as RFC 9457 problem documents that name the field."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from service.api.schemas import UNION_TAGS, Problem, ProblemField
from service.errors import ServiceError

_log = logging.getLogger(__name__)
_MOST_ERRORS = 20


def register(app: FastAPI) -> None:
    """Every error leaves as a problem document, those of the framework too."""

    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> Response:
        fields = [ProblemField(field=error.field, message=error.detail)] if error.field else []
        headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else {}
        return problem(request, error.status, error.title, error.detail, fields, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        fields = _fields(error.errors())
        if any(entry["type"] == "json_invalid" for entry in error.errors()):
            return problem(request, 400, "Broken JSON", fields[0].message, [])
        detail = "; ".join(f"{entry.field}: {entry.message}" for entry in fields[:3])
        return problem(request, 422, "Invalid request", detail, fields)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        title = HTTPStatus(error.status_code).phrase
        return problem(request, error.status_code, title, str(error.detail), [], dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        _log.error("unexpected error", exc_info=error, extra={"request_id": _request_id(request)})
        return problem(request, 500, "Internal error", "unexpected; the log has it under the request id", [])


def problem(
    request: Request,
    status: int,
    title: str,
    detail: str,
    errors: list[ProblemField],
    headers: dict[str, str] | None = None,
) -> Response:
    request.state.problem_status = status
    body = Problem(title=title, status=status, detail=detail, request_id=_request_id(request), errors=errors)
    # Text of the caller may come back in `detail`; what cannot be encoded must not become a 500.
    content = body.model_dump_json().encode("utf-8", "replace")
    return Response(content, status, headers=headers, media_type="application/problem+json")


def _request_id(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))


def _fields(errors: Iterable[Any]) -> list[ProblemField]:
    """Paths such as items[2].fields.title; the input itself is never echoed."""
    shown = []
    for error in list(errors)[:_MOST_ERRORS]:
        path = ""
        for part in error["loc"]:
            if part in UNION_TAGS or (part == "body" and not path):
                continue
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
        message = error["msg"] if error["type"] != "json_invalid" else f"not JSON: {error['ctx']['error']}"
        shown.append(ProblemField(field=path.encode("utf-8", "replace").decode() or "body", message=message))
    return shown
