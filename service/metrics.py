"""All Prometheus metrics, in seconds and tokens. Labels are bounded: never a query, never an id."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From 1 ms, because a cache hit takes that long, to the default deadline.
LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STAGES = ("cache", "tokenize", "queue", "inference", "total")
PAIR_STATUSES = ("scored", "cached", "deadline", "empty", "error")
HTTP_STATUSES = ("200", "400", "404", "413", "422", "429", "500", "503", "504")


class Metrics:
    """One registry a process; every labelled series exists from the start, at zero."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("cprm_requests", "Scoring requests.", ["model", "status"], registry=registry)
        self.stage_seconds = Histogram(
            "cprm_stage_seconds",
            "Time of a request by stage.",
            ["stage"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.pairs = Counter("cprm_pairs", "Pairs answered.", ["model", "status"], registry=registry)
        self.truncations = Counter(
            "cprm_truncations", "Scored pairs in which a part was cut.", ["model", "part"], registry=registry
        )
        self.tokens = Counter("cprm_tokens", "Tokens sent to the engine.", ["kind"], registry=registry)
        self.batch_pairs = Histogram(
            "cprm_batch_pairs",
            "Pairs in a forward pass.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.queue_tokens = Gauge("cprm_queue_tokens", "Tokens that wait.", ["model"], registry=registry)
        self.dropped = Counter(
            "cprm_dropped_pairs",
            "Pairs not computed because nobody waits any more.",
            ["model"],
            registry=registry,
        )
        self.engine_errors = Counter(
            "cprm_engine_errors", "Failed forward passes.", ["model"], registry=registry
        )
        self.loop_restarts = Counter(
            "cprm_batch_loop_restarts", "Batch loops revived.", ["model"], registry=registry
        )
        self.cache_lookups = Counter(
            "cprm_cache_lookups", "Pairs looked up in the score cache.", ["tier", "result"], registry=registry
        )
        self.cache_errors = Counter("cprm_cache_errors", "Failed cache calls.", ["tier"], registry=registry)
        self.breaker_open = Gauge(
            "cprm_cache_breaker_open", "1 while Redis is left alone.", registry=registry
        )
        self.ready = Gauge("cprm_ready", "1 when every model serves.", registry=registry)
        self.bundle_info = Gauge(
            "cprm_bundle_info", "1 for each serving bundle.", ["model", "version", "fingerprint", "numerics"],
            registry=registry,
        )  # fmt: skip
        self._zeros()

    def _zeros(self) -> None:
        for status in HTTP_STATUSES:
            self.requests.labels("none", status)  # refused before a model was chosen
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for kind in ("real", "padded"):
            self.tokens.labels(kind)
        for tier in ("memory", "redis"):
            self.cache_errors.labels(tier)
            for result in ("hit", "miss"):
                self.cache_lookups.labels(tier, result)

    def add_model(self, model: str, parts: Iterable[str]) -> None:
        """Create the series of a model at zero."""
        for status in HTTP_STATUSES:
            self.requests.labels(model, status)
        for status in PAIR_STATUSES:
            self.pairs.labels(model, status)
        for part in parts:
            self.truncations.labels(model, part)
        for metric in (self.queue_tokens, self.dropped, self.engine_errors, self.loop_restarts):
            metric.labels(model)
