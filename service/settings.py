"""Settings: environment variables with the prefix CPRM_, read once and passed down as plain values."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every field has a default that works; the service starts with none of them set."""

    model_config = SettingsConfigDict(env_prefix="CPRM_", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model_repo: Path = Field(Path("model_repo/bundles"), description="Folder of bundles to serve.")
    default_model: str | None = Field(
        None, description="Bundle that answers when a request names none; default miniapps, else the first."
    )
    threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, description="Cores one forward pass uses."
    )
    batch_max_tokens: int = Field(4096, ge=1, description="Padded tokens in one forward pass at most.")
    batch_window_pairs: int = Field(
        256,
        ge=1,
        description="Waiting pairs, most urgent first, among which a batch of like lengths is sought.",
    )
    queue_max_tokens: int = Field(
        200_000,
        ge=1,
        description="Tokens that may wait; a request that does not fit is answered 429 at once.",
    )
    max_items: int = Field(1000, ge=1, description="Items in one request at most.")
    max_query_chars: int = Field(2_000, ge=1, description="Characters of a query at most.")
    max_field_chars: int = Field(50_000, ge=1, description="Characters of one item field at most.")
    max_body_bytes: int = Field(2 * 1024 * 1024, ge=1, description="Bytes of a request body at most.")
    default_deadline_ms: float = Field(
        10_000, gt=0, description="Time from receipt after which an answer leaves with what is scored."
    )
    cache_entries: int = Field(200_000, ge=0, description="Pair scores kept in this process; 0 turns it off.")
    cache_ttl_s: int = Field(86_400, ge=1, description="Seconds a score stays in Redis, give or take 10%.")
    redis_url: SecretStr | None = Field(
        None, description="Redis that shares scores between replicas, such as redis://host:6379/0."
    )
    redis_timeout_ms: float = Field(20, gt=0, description="Time after which a Redis call counts as a miss.")
    drain_timeout_s: int = Field(10, ge=0, description="Time that requests in flight get after SIGTERM.")
    log_level: str = Field("info", description="debug, info, warning or error.")


def describe() -> str:
    """One line a setting, for `--help`."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = "all cores" if field.default_factory else field.default
        lines.append(f"  CPRM_{name.upper()} ({default})\n      {field.description}")
    return "\n".join(lines)
