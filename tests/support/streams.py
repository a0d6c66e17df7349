"""Streams for tests of the loop, in which the steps matter and the texts do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from training.streams import Batch


class OnePair:
    """The same pair of five tokens for ever; its state counts the batches taken."""

    def __init__(self) -> None:
        self.taken = 0

    def next(self) -> Batch:
        self.taken += 1
        rows = {
            "input_ids": torch.tensor([[101, 7592, 102, 2088, 102]]),
            "segment_ids": torch.tensor([[0, 1, 0, 2, 0]]),
            "lengths": torch.tensor([5]),
        }
        return Batch(rows, 5)

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.taken = state["taken"]
