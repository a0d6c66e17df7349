"""Routes for operators: liveness, readiness, metrics, models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api.state import State
from service.errors import NotReadyError

router = APIRouter()


@router.get("/health/live")
async def live() -> dict[str, str]:
    """The process answers; restart it when it does not."""
    return {"status": "live"}


@router.get("/health/ready")
async def ready(request: Request) -> dict[str, Any]:
    """Every bundle has replayed its golden pairs and its queue moves; 503 with the reasons otherwise."""
    state: State = request.state.service
    reasons = state.models.not_ready_reasons()
    state.metrics.ready.set(not reasons)
    if reasons:
        raise NotReadyError("; ".join(reasons), retry_after_s=1)
    return {"status": "ready", "models": sorted(state.models.loaded)}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    state: State = request.state.service
    state.metrics.ready.set(state.models.ready)
    return Response(generate_latest(state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """What is served, and what was refused with its reason."""
    state: State = request.state.service
    return {
        "default": state.models.default_name,
        "models": [
            {
                "name": name,
                "version": model.bundle.version,
                "fingerprint": model.bundle.fingerprint,
                "numerics": model.engine.numerics,
                "fields": model.bundle.manifest.spec.field_names,
                "max_tokens": model.bundle.manifest.spec.max_tokens,
                "grades": model.bundle.calibration.grade_names,
            }
            for name, model in sorted(state.models.loaded.items())
        ],
        "refused": state.models.failed,
    }
