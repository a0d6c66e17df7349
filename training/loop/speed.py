"""Tokens per second and model FLOP utilisation of a training step."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import nn


class Speedometer:
    """MFU here is 6 FLOP per weight and token over what a large matrix product reaches on this device.

    The peak is measured rather than looked up, so that the number means the same on any machine; embeddings
    are lookups and do not count, attention scores are left out (they are below 5% at these lengths).
    """

    def __init__(self, model: nn.Module, *, precision: str) -> None:
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self._weights = sum(p.numel() for p in model.parameters() if id(p) not in tables)
        self._device = next(model.parameters()).device
        self._precision = precision
        self._tokens, self._since = 0, time.perf_counter()

    def add(self, tokens: int) -> None:
        self._tokens += tokens

    def read(self) -> tuple[float, float]:
        """(tokens per second, MFU) since the last reading."""
        now = time.perf_counter()
        speed = self._tokens / (now - self._since)
        self._tokens, self._since = 0, now
        return speed, 6 * self._weights * speed / matmul_peak(str(self._device), self._precision)


@cache
def matmul_peak(device: str, precision: str) -> float:
    """FLOP/s of the best of a few square products in the training precision; about a fifth of a second."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    size = 8192 if device.startswith("cuda") else 1024
    # A generator of its own: measured once a process, it must not move the random state of the training.
    left = torch.randn(size, size, device=device, generator=torch.Generator(device)).to(dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product = left @ left
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        del product
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
