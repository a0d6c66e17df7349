"""What to change when a step does not fit into memory; every remedy named has been tried on the formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from training.config import OptimiserConfig
from training.plan.anatomy import Anatomy
from training.plan.batches import Shape
from training.plan.memory import Memory, step_memory


class Knobs(NamedTuple):
    """Where a stage's batch size stands in the config, by objective, with its value."""

    stage: str
    by_objective: Mapping[str, tuple[str, int]]
    otherwise: tuple[str, int]


def remedies(
    anatomy: Anatomy, worst: Shape, config: OptimiserConfig, knobs: Knobs, limit: int, dropout: float
) -> tuple[str, ...]:
    """Single changes that make `worst` fit into `limit` bytes, then both together, else sharding."""

    def memory(factor: float = 1.0, *, checkpointing: bool = config.gradient_checkpointing) -> Memory:
        shape = worst.shrunk(factor)
        return step_memory(anatomy, shape, config, dropout=dropout, checkpointing=checkpointing)

    state = memory().state
    if state > limit:
        devices = -(-state // (limit // 2))
        return (
            f"weights, gradients and optimiser alone are {state / 1024**3:,.1f} GiB: shard them over {devices} such "
            "devices (FSDP; the loop here drives one), or take a device with more memory",
        )
    found = []
    checkpoint = f"{knobs.stage}.optimiser.gradient_checkpointing: true"
    off = not config.gradient_checkpointing
    if off and memory(checkpointing=True).total <= limit:
        found.append(f"{checkpoint} (about a third more time)")
    name, value = knobs.by_objective.get(worst.objective, knobs.otherwise)
    for kept in (False, True) if off else (True,):
        smaller = value // 2
        while smaller and memory(smaller / value, checkpointing=kept).total > limit:
            smaller //= 2
        if smaller:
            found.append(f"{name}: {smaller} (now {value})" + (f" with {checkpoint}" if kept and off else ""))
            if not kept or not off:
                break
    return tuple(found) or (
        "no batch is small enough: shard over several devices, or take one with more memory",
    )
