"""Shapes of batches drawn from the real streams: what steps, memory and arithmetic are counted from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from training.streams import Batch, Stream


@dataclass(frozen=True, slots=True)
class Shape:
    """One step. `texts`: (rows, padded length) of each tensor the backbone reads; `told`: rows told words."""

    objective: str
    tokens: int
    texts: tuple[tuple[float, int], ...]
    told: float

    @property
    def padded(self) -> float:
        return sum(rows * length for rows, length in self.texts)

    def shrunk(self, factor: float) -> Shape:
        """The same step with `factor` times the rows."""
        texts = tuple((rows * factor, length) for rows, length in self.texts)
        return replace(self, tokens=int(self.tokens * factor), texts=texts, told=self.told * factor)


def shape_of(batch: Batch) -> Shape:
    texts = (tuple(value.shape) for name, value in batch.inputs.items() if name.endswith("input_ids"))
    return Shape(
        batch.objective, batch.tokens, tuple((rows, length) for rows, length in texts), _told(batch.inputs)
    )


def survey(stream: Stream, *, draws: int) -> list[Shape]:
    return [shape_of(stream.next()) for _ in range(draws)]


def _told(inputs: Mapping[str, Tensor]) -> int:
    """Positions that pass the projection onto the vocabulary: part B of GLM, masked tokens of a BERT."""
    if "loss_mask" in inputs:
        return int(inputs["loss_mask"].sum())
    return int((inputs["labels"] >= 0).sum()) if "labels" in inputs else 0
