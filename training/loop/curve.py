"""The curve of a training run: kept for the report, shown in TensorBoard, told on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.config import OptimiserConfig
from training.loop.journal import Position
from training.loop.speed import Speedometer
from training.models.base import RelevanceModel
from training.streams import Batch


class Curve:
    """Means over windows of steps, kept for the report and shown in TensorBoard."""

    def __init__(
        self, run: Position, model: RelevanceModel, config: OptimiserConfig, events: Path | None
    ) -> None:
        self._run, self._every, self._events = run, 10, events
        self._speed = Speedometer(model, precision=config.precision)
        self._writer: Any = None
        self._clock = time.monotonic()

    def __enter__(self) -> Curve:
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
        now = time.monotonic()
        self._run.seconds += now - self._clock
        self._clock = now
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
            "seconds": self._run.seconds,
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
def progress(title: str, total: int) -> Iterator[Callable[[Position, float], None]]:
    """Yield what reports a position and the last loss: a bar on a terminal, a line every tenth in a log."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[said]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=total, said="")
        tenths = 0

        def report(position: Position, loss: float) -> None:
            nonlocal tenths
            said = f"loss {loss:.3f}"
            if position.points:
                last = position.points[-1]
                said += f", {last['tokens_per_s']:,.0f} tokens/s, MFU {last['mfu']:.0%}"
            bar.update(task, completed=position.seen, said=said)
            if not bar.console.is_terminal and 10 * position.seen // total > tenths:
                tenths = 10 * position.seen // total
                print(f"{title}: {position.seen:,} of {total:,} tokens, {said}", flush=True)

        yield report
