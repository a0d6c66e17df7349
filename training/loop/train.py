"""The one training loop: batches in, an optimised model and its curve out. Knows no stage and no objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from training.config import OptimiserConfig
from training.errors import FitError
from training.loop.curve import Curve, progress
from training.loop.journal import Checkpointer, Journal
from training.loop.optimiser import make_optimiser, set_rate
from training.models.base import RelevanceModel
from training.streams import Batch, Stream

LossFn = Callable[[RelevanceModel, Batch], Tensor]


class Watch(Protocol):
    """Called between steps with the tokens seen; true stops the training early."""

    def __call__(self, model: RelevanceModel, tokens: int) -> bool: ...

    def state(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


class DivergedError(FitError):
    """The loss stopped being a number."""


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

    Each point has `tokens`, `loss` (mean since the last point), `seconds` (since the beginning, over all starts),
    `learning_rate`, `tokens_per_s` and `mfu`.
    With a journal a killed run goes on with the identical next batch; whoever keeps the result removes the
    checkpoint then. Raises DivergedError when the loss is not finite.
    """
    # One state a process, and it refuses a second precision: a stage, or another trainer, may have had another.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=config.precision)
    if config.gradient_checkpointing:
        model.checkpoint_activations()
    model.to(accelerator.device)
    # Prepared for fp16 alone: the wrapper undoes the scaling of gradients and skips steps that overflowed.
    optimiser = accelerator.prepare_optimizer(make_optimiser(model, config))
    scaler = {"scaler": accelerator.scaler} if accelerator.scaler else {}
    checkpointer = Checkpointer(
        journal,
        tensors={"model": model, "optimiser": optimiser, **scaler},
        places={"stream": stream, **({"watch": watch} if watch else {})},
    )
    position = checkpointer.resume()
    curve = Curve(position, model, config, journal.events if journal else None)
    model.train()
    with progress(title, config.tokens) as advance, curve:
        while position.seen < config.tokens:
            batch = stream.next()
            rate = set_rate(optimiser, config, position.seen / config.tokens)
            inputs = {name: value.to(accelerator.device) for name, value in batch.inputs.items()}
            with accelerator.autocast():
                loss = loss_fn(model, Batch(inputs, batch.tokens, batch.objective))
            if not math.isfinite(value := loss.item()):
                raise DivergedError(
                    f"{title}: loss is {value} after {position.seen} tokens; lower the learning rate"
                )
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimiser.step()
            optimiser.zero_grad()
            position.seen += batch.tokens
            curve.add(batch, value, rate)
            advance(position, value)
            if watch and watch(model, position.seen):
                break
            checkpointer.save_if_due(position)
    return position.points
