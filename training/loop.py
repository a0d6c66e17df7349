"""The one training loop: batches in, an optimised model and its curve out. Knows no stage and no objective."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from training.config import OptimiserConfig
from training.models.base import RelevanceModel
from training.speed import Speedometer
from training.streams import Batch, Stream

# GLM-2B writes 21 GiB: at most a twentieth of the time goes into checkpoints.
_SHARE_OF_SAVING = 20

LossFn = Callable[[RelevanceModel, Batch], Tensor]
Watch = Callable[[RelevanceModel, int], bool]
"""Called between steps with the tokens seen; true stops the training early."""


class DivergedError(RuntimeError):
    """The loss stopped being a number."""


@dataclass(frozen=True, slots=True)
class Journal:
    """Where a stage keeps what a killed process needs, and where TensorBoard finds its curve."""

    checkpoint: Path
    events: Path
    every_s: float = 60.0
    """Least time between checkpoints; where writing one takes long, twenty times that."""


@dataclass(slots=True)
class _Run:
    """What a checkpoint holds beside weights and optimiser."""

    seen: int = 0
    points: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last point."""
    rate: float = 0.0


def train(
    model: RelevanceModel,
    stream: Stream,
    loss_fn: LossFn,
    config: OptimiserConfig,
    *,
    title: str,
    journal: Journal | None = None,
    watch: Watch | None = None,
) -> list[dict[str, float]]:
    """Train in place until `config.tokens` real tokens were seen; return the curve.

    Each point has `tokens`, `loss` (mean since the last point), `learning_rate`, `tokens_per_s` and `mfu`.
    With a journal a killed run goes on with the identical next batch; whoever keeps the result removes the
    checkpoint then. Raises DivergedError when the loss is not finite.
    """
    accelerator = Accelerator(mixed_precision=config.precision)
    if config.gradient_checkpointing:
        model.checkpoint_activations()
    optimiser = _optimiser(model, config)
    model.to(accelerator.device)
    run = _resume(journal, model, optimiser, stream)
    curve = _Curve(run, model, config, journal.events if journal else None)
    model.train()
    saved, pause = time.monotonic(), journal.every_s if journal else math.inf
    with _progress(title, config.tokens) as advance, curve:
        while run.seen < config.tokens:
            batch = stream.next()
            rate = _set_rate(optimiser, config, run.seen / config.tokens)
            inputs = {name: value.to(accelerator.device) for name, value in batch.inputs.items()}
            with accelerator.autocast():
                loss = loss_fn(model, Batch(inputs, batch.tokens, batch.objective))
            if not math.isfinite(value := loss.item()):
                raise DivergedError(
                    f"{title}: loss is {value} after {run.seen} tokens; lower the learning rate"
                )
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimiser.step()
            optimiser.zero_grad()
            run.seen += batch.tokens
            curve.add(batch, value, rate)
            advance(run.seen, value)
            if watch and watch(model, run.seen):
                break
            if journal and time.monotonic() - saved > pause:
                start = time.monotonic()
                _save(journal, model, optimiser, stream, run)
                saved = time.monotonic()
                pause = max(journal.every_s, _SHARE_OF_SAVING * (saved - start))
    return run.points


def _save(journal: Journal, model: RelevanceModel, optimiser: Any, stream: Stream, run: _Run) -> None:
    """Under another name first: a process killed while writing leaves the last checkpoint whole."""
    scratch = journal.checkpoint.with_suffix(".part")
    state = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "stream": stream.state(),
        "torch": torch.get_rng_state(),
        "seen": run.seen,
        "points": run.points,
        "losses": run.losses,
        "rate": run.rate,
    }
    with scratch.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(journal.checkpoint)


def _resume(journal: Journal | None, model: RelevanceModel, optimiser: Any, stream: Stream) -> _Run:
    if journal is None or not journal.checkpoint.exists():
        return _Run()
    state = torch.load(journal.checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    stream.restore(state["stream"])
    torch.set_rng_state(state["torch"])
    return _Run(state["seen"], state["points"], state["losses"], state["rate"])


def _optimiser(model: RelevanceModel, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW in groups: new weights faster, lower layers slower, matrices with decay and the rest without."""
    new = model.new_parameters()
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = config.new_weights_factor if name in new else config.layer_decay ** model.depth(name)
            groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if matrix else 0.0,
                "base_rate": config.learning_rate * factor,
            }
            for (factor, matrix), parameters in groups.items()
        ],
        betas=config.betas,
        fused=True,
    )


def _set_rate(optimiser: torch.optim.AdamW, config: OptimiserConfig, done: float) -> float:
    """Linear warm-up, then to `final_share` of the peak, linearly or along a cosine; `done` is the share spent."""
    if done < config.warmup:
        factor = max(done / config.warmup, 1e-3)
    else:
        left = min(1.0, (done - config.warmup) / (1 - config.warmup))
        fall = (1 + math.cos(math.pi * left)) / 2 if config.schedule == "cosine" else 1 - left
        factor = max(config.final_share + (1 - config.final_share) * fall, 1e-3)
    for group in optimiser.param_groups:
        group["lr"] = group["base_rate"] * factor
    return config.learning_rate * factor


class _Curve:
    """Means over windows of steps, kept for the report and shown in TensorBoard."""

    def __init__(
        self, run: _Run, model: RelevanceModel, config: OptimiserConfig, events: Path | None
    ) -> None:
        self._run, self._every, self._events = run, 10, events
        self._speed = Speedometer(model, precision=config.precision)
        self._writer: Any = None

    def __enter__(self) -> _Curve:
        if self._events:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._events), purge_step=self._run.seen + 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        if self._writer:
            self._writer.close()

    def add(self, batch: Batch, loss: float, rate: float) -> None:
        self._run.losses.append(loss)
        self._run.rate = rate
        self._speed.add(batch.tokens)
        if len(self._run.losses) >= self._every:
            self._flush()

    def _flush(self) -> None:
        if not self._run.losses:
            return
        speed, mfu = self._speed.read()
        point = {
            "tokens": self._run.seen,
            "loss": sum(self._run.losses) / len(self._run.losses),
            "learning_rate": self._run.rate,
            "tokens_per_s": speed,
            "mfu": mfu,
        }
        self._run.points.append(point)
        if self._writer:
            for name in ("loss", "learning_rate", "tokens_per_s", "mfu"):
                self._writer.add_scalar(name, point[name], self._run.seen)
        self._run.losses = []


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
