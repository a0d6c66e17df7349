"""Machines a run can be planned for: dense peak, memory, and the share of the peak that training reaches."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from training.config import ConfigError
from training.loop.speed import matmul_peak

HERE = "this-machine"
_GIB = 1024**3
_TERA = 1e12
_WIDE = 1024
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Machine:
    """One device. `peaks` in FLOP/s by precision ("no" is fp32); `memory` in bytes as a process sees it."""

    name: str
    memory: int
    peaks: dict[str, float]
    mfu_wide: float
    mfu_narrow: float
    source: str

    def mfu(self, hidden: int) -> float:
        """Below a width of 1024, launches and memory bandwidth bind, not arithmetic."""
        return self.mfu_wide if hidden >= _WIDE else self.mfu_narrow


def _card(name: str, gib: float, *, half: float, single: float, source: str) -> Machine:
    """A data-sheet machine; `half` and `single` in TFLOP/s, both dense (sheets print twice as much, "with sparsity").

    fp32 is without TF32, which PyTorch leaves off. Shares are assumed: 0.40 is what one well-fed device reaches on
    wide models (Korthikanti et al. 2022 report 0.42 to 0.56 on A100), 0.15 what widths of 384 to 768 reach.
    """
    peaks = {"bf16": half * _TERA, "fp16": half * _TERA, "no": single * _TERA}
    return Machine(name, int(gib * _GIB), peaks, 0.40, 0.15, source)


# Memory is what the driver leaves to a process, a little below the name.
MACHINES = {
    machine.name: machine
    for machine in (
        # bf16 1,979 TFLOP/s with sparsity, SXM.
        _card("h100-80gb", 79, half=989.4, single=67, source="NVIDIA H100 Tensor Core GPU data sheet, SXM"),
        # The same chip with more memory.
        _card("h200-141gb", 139, half=989.4, single=67, source="NVIDIA H200 Tensor Core GPU data sheet, SXM"),
        # 624 with sparsity.
        _card("a100-80gb", 79, half=312, single=19.5, source="NVIDIA A100 Tensor Core GPU data sheet"),
        # 733 with sparsity.
        _card("l40s-48gb", 44, half=362, single=91.6, source="NVIDIA L40S data sheet"),
        # 242 with sparsity.
        _card("l4-24gb", 22, half=121, single=30.3, source="NVIDIA L4 Tensor Core GPU data sheet"),
    )
}


def open_machine(name: str, precisions: Iterable[str]) -> Machine:
    """A machine of the table, or `this-machine`, whose peak is measured in the given precisions.

    Raises ConfigError naming the machines there are.
    """
    if name == HERE:
        return _here(precisions)
    if name not in MACHINES:
        raise ConfigError(f"machine {name!r} is unknown; there are {HERE}, {', '.join(MACHINES)}")
    return MACHINES[name]


def _here(precisions: Iterable[str]) -> Machine:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peaks = {precision: matmul_peak(device, precision) for precision in precisions}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return Machine(HERE, properties.total_memory, peaks, 0.50, 0.20, f"measured, {properties.name}")
    threads = torch.get_num_threads()
    # 0.30 to 0.34 measured with MiniLM on one busy core of an EPYC; a CPU has no launches to wait for.
    return Machine(HERE, _host_memory(), peaks, 0.35, 0.35, f"measured, CPU, {threads} thread(s)")


def _host_memory() -> int:
    """Physical memory, or the container's limit where that is lower."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else ""
    return min(physical, int(limit)) if limit.isdigit() else physical
