"""The one training loop: batches in, an optimised model and its curve out. Knows no stage and no objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from training.config import OptimiserConfig
from training.models.encoder import RelevanceEncoder


@dataclass(frozen=True, slots=True)
class Batch:
    """Model inputs and how many of their tokens are real."""

    inputs: Mapping[str, Tensor]
    tokens: int


LossFn = Callable[[RelevanceEncoder, Mapping[str, Tensor]], Tensor]


class DivergedError(RuntimeError):
    """The loss stopped being a number."""


def train(
    model: RelevanceEncoder,
    batches: Iterator[Batch],
    loss_fn: LossFn,
    config: OptimiserConfig,
    *,
    title: str,
) -> list[dict[str, float]]:
    """Train in place until `config.tokens` real tokens were seen; return the curve.

    Each point has `tokens`, `loss` (mean since the last point), `learning_rate` and `tokens_per_s`.
    Raises DivergedError when the loss is not finite.
    """
    accelerator = Accelerator()
    optimiser = _optimiser(model, config)
    model.to(accelerator.device)
    model.train()
    curve = _Curve()
    seen = 0
    with _progress(title, config.tokens) as advance:
        while seen < config.tokens:
            batch = next(batches)
            rate = _set_rate(optimiser, config, seen / config.tokens)
            loss = loss_fn(model, {k: v.to(accelerator.device) for k, v in batch.inputs.items()})
            if not math.isfinite(value := loss.item()):
                raise DivergedError(f"{title}: loss is {value} after {seen} tokens; lower the learning rate")
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimiser.step()
            optimiser.zero_grad()
            seen += batch.tokens
            curve.add(seen, value, rate)
            advance(seen, value)
    curve.flush()
    return curve.points


def _optimiser(model: RelevanceEncoder, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW in four groups: known and new weights, matrices with decay and the rest without."""
    new = model.new_parameters()
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        groups.setdefault((name in new, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if matrix else 0.0,
                "base_rate": config.learning_rate * (config.new_weights_factor if is_new else 1.0),
            }
            for (is_new, matrix), parameters in groups.items()
        ],
        fused=True,
    )


def _set_rate(optimiser: torch.optim.AdamW, config: OptimiserConfig, done: float) -> float:
    """Linear warm-up, then linear decay to zero; `done` is the share of the budget spent."""
    factor = done / config.warmup if done < config.warmup else (1 - done) / (1 - config.warmup)
    factor = max(factor, 1e-3)
    for group in optimiser.param_groups:
        group["lr"] = group["base_rate"] * factor
    return config.learning_rate * factor


class _Curve:
    """Means over windows of steps: a point a step would be noise, and a file of it."""

    def __init__(self, every: int = 10) -> None:
        self.points: list[dict[str, float]] = []
        self._every, self._losses, self._tokens, self._rate = every, list[float](), 0, 0.0
        self._since, self._clock = 0, time.perf_counter()

    def add(self, tokens: int, loss: float, rate: float) -> None:
        self._losses.append(loss)
        self._tokens, self._rate = tokens, rate
        if len(self._losses) >= self._every:
            self.flush()

    def flush(self) -> None:
        if not self._losses:
            return
        now = time.perf_counter()
        self.points.append(
            {
                "tokens": self._tokens,
                "loss": sum(self._losses) / len(self._losses),
                "learning_rate": self._rate,
                "tokens_per_s": (self._tokens - self._since) / (now - self._clock),
            }
        )
        self._losses, self._since, self._clock = [], self._tokens, now


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int, float], None]]:
    """Yield what reports (tokens done, loss): a bar on a terminal, a line every tenth in a log."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=total, loss=float("nan"))
        tenths = 0

        def report(done: int, loss: float) -> None:
            nonlocal tenths
            bar.update(task, completed=done, loss=loss)
            if not bar.console.is_terminal and 10 * done // total > tenths:
                tenths = 10 * done // total
                print(f"{title}: {done:,} of {total:,} tokens, loss {loss:.3f}", flush=True)

        yield report
