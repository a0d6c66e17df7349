"""The bundles being served: loaded off the event loop, admitted by their golden pairs, found by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from model_repo.bundle import Bundle, BundleError
from model_repo.repository import Repository
from service.batching.batcher import Batcher
from service.engine import ScoreEngine
from service.errors import NotReadyError, UnknownModelError
from service.metrics import Metrics

_log = logging.getLogger(__name__)
_PREFERRED = "miniapps"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """An admitted bundle with its engine and queue. `aliases` are those that named it when it was loaded."""

    bundle: Bundle
    engine: ScoreEngine
    batcher: Batcher
    aliases: frozenset[str]


class Models:
    """All bundles of a repository. Every name is in exactly one of `loaded`, `failed` and still loading."""

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        *,
        default: str | None,
        admit: Callable[[Bundle], ScoreEngine],
        queue: Callable[[str, ScoreEngine], Batcher],
    ) -> None:
        """`admit` may block and raises BundleError; `queue` makes a batcher that is not started."""
        self._repository, self._metrics = repository, metrics
        self._admit, self._queue, self._default = admit, queue, default
        self.loaded: dict[str, LoadedModel] = {}
        self.failed: dict[str, str] = {}
        self._finished = False

    async def load(self) -> None:
        """Load every bundle; failures are kept as reasons, never raised."""
        names = self._repository.names()
        if not names:
            self.failed["*"] = f"no bundle in {self._repository.root}; export one, or set CPRM_MODEL_REPO"
        for name in names:
            try:
                await self._load_one(name)
            except Exception as error:
                self.failed[name] = str(error)
                _log.exception("bundle %s was refused", name) if not isinstance(
                    error, BundleError
                ) else _log.error("bundle %s was refused: %s", name, error)
        if self._default and self._default not in names:
            self.failed[self._default] = f"CPRM_DEFAULT_MODEL {self._default!r} is not among {names}"
        self._finished = True
        self._metrics.ready.set(self.ready)

    async def _load_one(self, name: str) -> None:
        bundle = await asyncio.to_thread(lambda: Bundle.load(self._repository.resolve(name)))
        engine = await asyncio.to_thread(self._admit, bundle)
        batcher = self._queue(name, engine)
        batcher.start()
        self._metrics.add_model(name, bundle.manifest.spec.text_parts)
        self._metrics.bundle_info.labels(name, bundle.version, bundle.fingerprint, engine.numerics).set(1)
        named = self._repository.aliases(name).items()
        aliases = frozenset(alias for alias, version in named if version == bundle.version)
        self.loaded[name] = LoadedModel(bundle, engine, batcher, aliases)
        _log.info("serving %s/%s on %s", name, bundle.version, engine.numerics)

    async def close(self) -> None:
        await asyncio.gather(*(model.batcher.stop() for model in self.loaded.values()))

    @property
    def ready(self) -> bool:
        return not self.not_ready_reasons()

    def not_ready_reasons(self) -> list[str]:
        """Why the service should get no traffic; empty when it should."""
        reasons = list(self.failed.values())
        if not self._finished:
            reasons.append("bundles are being loaded")
        reasons += [
            f"{n}: the batch loop does not move" for n, m in self.loaded.items() if not m.batcher.moving
        ]
        return reasons

    @property
    def default_name(self) -> str | None:
        if self._default:
            return self._default
        return _PREFERRED if _PREFERRED in self.loaded else next(iter(sorted(self.loaded)), None)

    def get(self, name: str | None, version: str | None) -> LoadedModel:
        """Raises UnknownModelError, or NotReadyError while the wanted model is not (yet) there."""
        wanted = name or self.default_name
        model = self.loaded.get(wanted) if wanted else None
        if model is None:
            if wanted is None or wanted in self.failed or not self._finished:
                raise NotReadyError("; ".join(self.not_ready_reasons()), retry_after_s=1)
            raise UnknownModelError(f"no model {wanted!r}; there are {sorted(self.loaded)}", field="model")
        if version is not None and version not in (model.bundle.version, *model.aliases):
            raise UnknownModelError(
                f"version {version!r} of {wanted!r} is not loaded; {model.bundle.version} is", field="version"
            )
        return model
