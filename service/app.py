"""The application: everything is constructed here, and only here are concrete classes known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse

from model_repo.repository import Repository
from service.api import operations, problems, relevance
from service.api.middleware import BodyLimit, RequestContext
from service.api.outcome import CountOutcome
from service.api.state import State
from service.batching.batcher import Batcher
from service.cache.base import ScoreCache
from service.cache.memory import MemoryCache
from service.cache.redis import RedisCache
from service.cache.tiered import TieredCache
from service.engine import ScoreEngine, admit
from service.metrics import Metrics
from service.models import Models
from service.scoring import Scorer
from service.settings import Settings


class Lifespan(TypedDict):
    service: State


def create_app(settings: Settings) -> FastAPI:
    """A service that listens at once and becomes ready when its bundles have passed their golden pairs."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Lifespan]:
        cache = _cache(settings, metrics)
        models = Models(
            Repository(settings.model_repo),
            metrics,
            default=settings.default_model,
            admit=lambda bundle: admit(bundle, threads=settings.threads),
            queue=lambda name, engine: _batcher(name, engine, metrics, settings),
        )
        loading = asyncio.create_task(models.load(), name="load-bundles")
        yield {"service": State(settings, metrics, models, Scorer(cache, metrics))}
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await models.close()
        await cache.close()

    app = FastAPI(title="CPRM", summary="Online relevance scoring for commercial search", lifespan=lifespan)
    problems.register(app)
    app.include_router(relevance.router)
    app.include_router(operations.router)
    app.add_api_route("/", _to_docs, include_in_schema=False)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(CountOutcome, metrics=metrics)
    app.add_middleware(RequestContext)
    return app


async def _to_docs(request: Request) -> RedirectResponse:
    return RedirectResponse("/docs")


def _batcher(name: str, engine: ScoreEngine, metrics: Metrics, settings: Settings) -> Batcher:
    return Batcher(
        engine,
        metrics,
        model=name,
        max_tokens=settings.batch_max_tokens,
        window=settings.batch_window_pairs,
        queue_max_tokens=settings.queue_max_tokens,
    )


def _cache(settings: Settings, metrics: Metrics) -> ScoreCache:
    memory = MemoryCache(settings.cache_entries, metrics)
    if settings.redis_url is None:
        return memory
    url = settings.redis_url.get_secret_value()
    redis = RedisCache(url, metrics, ttl_s=settings.cache_ttl_s, timeout_ms=settings.redis_timeout_ms)
    return TieredCache(memory, redis)
