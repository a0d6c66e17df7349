"""What the routes may use, constructed once by the application."""

from __future__ import annotations

from dataclasses import dataclass

from service.metrics import Metrics
from service.models import Models
from service.scoring import Scorer
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class State:
    settings: Settings
    metrics: Metrics
    models: Models
    scorer: Scorer
