"""What to change when a step does not fit into memory; every remedy named has been tried on the formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def of(self, shape: Shape) -> tuple[str, int]:
        return self.by_objective.get(shape.objective, self.otherwise)


def remedies(
    anatomy: Anatomy,
    shapes: Sequence[Shape],
    config: OptimiserConfig,
    knobs: Knobs,
    limit: int,
    dropout: float,
) -> tuple[str, ...]:
    """Alternatives, each of which alone makes all `shapes` fit into `limit` bytes; a larger device where none does."""

    def memory(shape: Shape, factor: float, checkpointing: bool) -> Memory:
        return step_memory(
            anatomy, shape.shrunk(factor), config, dropout=dropout, checkpointing=checkpointing
        )

    def smaller(checkpointing: bool) -> str | None:
        """Every knob whose steps are too large, halved until they fit; None where even one token is too much."""
        changes = []
        for name, value in dict.fromkeys(map(knobs.of, shapes)):
            mine = [shape for shape in shapes if knobs.of(shape) == (name, value)]
            fitting = value
            while fitting and any(memory(s, fitting / value, checkpointing).total > limit for s in mine):
                fitting //= 2
            if not fitting:
                return None
            if fitting < value:
                changes.append(f"{name}: {fitting} (now {value})")
        return " and ".join(changes)

    state = memory(shapes[0], 1.0, True).state
    if state > limit:
        return (
            f"weights, gradients and optimiser alone are {state / 1024**3:,.1f} GiB, and one device drives a run: "
            "take one with more memory",
        )
    on = config.gradient_checkpointing
    checkpoint = f"{knobs.stage}.optimiser.gradient_checkpointing: true (about a third more time)"
    found = []
    if not on and (also := smaller(True)) is not None:
        found.append(f"{checkpoint} and {also}" if also else checkpoint)
    if alone := smaller(on):
        found.append(alone)
    return tuple(found) or ("no batch is small enough: take a device with more memory",)
