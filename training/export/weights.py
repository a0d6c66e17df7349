"""Where a graph's weights come from, and the one file of half-precision weights that all graphs of a version share.

A source is a function from a weight's name to its array; it is asked for one tensor at a time, so that a model of
any size is written in the memory of its largest tensor.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto
from torch import nn

Weights = Callable[[str], npt.NDArray[Any]]
WEIGHT_FILE = "weights.bin"
# Readers map the file into memory by pages.
_PAGE = 4096
# Uniform with the standard deviation that GLM starts from, 0.02; a normal draw takes far longer.
_SPREAD = 0.02 * math.sqrt(12)
_BLOCK = 1 << 20


class WeightFile:
    """Appends half-precision tensors to a file; a tensor that two graphs ask for is stored once. Close after use."""

    def __init__(self, path: Path, weights: Weights) -> None:
        self._weights, self._name, self._file = weights, path.name, path.open("xb")
        self._known: dict[str, tuple[tuple[int, ...], int]] = {}

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def exact(self, name: str) -> npt.NDArray[Any]:
        """The weight as its source has it; nothing is stored."""
        return self._weights(name)

    def tensor(self, name: str, rows: slice | None = None) -> onnx.TensorProto:
        """An initializer of fp16 that points at the weight, or at a run of its rows.

        Raises ValueError naming a weight outside fp16's range.
        """
        if name not in self._known:
            self._known[name] = self._store(name)
        shape, start = self._known[name]
        first, stop, _ = (rows or slice(None)).indices(shape[0] if shape else 1)
        dims = shape if rows is None else (stop - first, *shape[1:])
        row_bytes = 2 * math.prod(shape[1:])
        tensor = TensorProto(
            name=name if rows is None else f"{name}[{first}:{stop}]",
            data_type=TensorProto.FLOAT16,
            dims=dims,
            data_location=TensorProto.EXTERNAL,
        )
        place = {
            "location": self._name,
            "offset": start + first * row_bytes,
            "length": 2 * math.prod(dims),
        }
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def flush(self) -> None:
        """Make what was stored readable by others."""
        self._file.flush()

    def _store(self, name: str) -> tuple[tuple[int, ...], int]:
        value = self._weights(name)
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(value, dtype=np.float16).reshape(value.shape)
        if not np.isfinite(half).all():
            raise ValueError(f"{name}: a weight exceeds the range of fp16 (65504); train with more decay")
        start = -(-self._file.tell() // _PAGE) * _PAGE
        self._file.seek(start)
        self._file.write(half.data)
        return half.shape, start


def module_weights(model: nn.Module, prefix: str = "") -> Weights:
    """The weights of a model in memory."""
    state = model.state_dict()
    return lambda name: state[prefix + name].detach().cpu().numpy()


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Weights made on the spot, equal for equal names; norms near one. For benchmarks."""

    def make(name: str) -> npt.NDArray[np.float16]:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        shape = shapes[name]
        centre = 1.0 if "layernorm.weight" in name else 0.0
        out = np.empty(shape, dtype=np.float16)
        flat = out.reshape(-1)
        for start in range(0, flat.size, _BLOCK):  # an fp32 draw of the whole would be twice the result
            block = flat[start : start + _BLOCK]
            block[...] = centre + _SPREAD * (rng.random(block.shape, dtype=np.float32) - 0.5)
        return out

    return make


def folder_weights(folder: Path) -> Weights:
    """The weights of a checkpoint folder, `*.safetensors` or else `pytorch_model*.bin`, read one by one.

    Raises FileNotFoundError when there is neither; the function raises KeyError for a name that no file has.
    """
    files = sorted(folder.glob("*.safetensors"))
    readers = [_safetensors(path) for path in files]
    if not readers:
        readers = [_pickled(path) for path in sorted(folder.glob("pytorch_model*.bin"))]
    if not readers:
        raise FileNotFoundError(f"{folder}: no *.safetensors and no pytorch_model*.bin")
    places = {name: reader for names, reader in readers for name in names}
    return lambda name: places[name](name)


def _safetensors(path: Path) -> tuple[set[str], Weights]:
    """Reads by offset; a mapped file would stay in memory once it was touched."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)

    def read(name: str) -> npt.NDArray[Any]:
        entry = header[name]
        first, stop = entry["data_offsets"]
        kind = {"F16": np.float16, "F32": np.float32, "BF16": np.uint16}[entry["dtype"]]
        start = 8 + header_bytes + first
        values = np.fromfile(path, kind, count=(stop - first) // np.dtype(kind).itemsize, offset=start)
        if entry["dtype"] == "BF16":  # the upper half of an fp32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(entry["shape"])

    return set(header), read


def _pickled(path: Path) -> tuple[set[str], Weights]:
    def load() -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return state

    def read(name: str) -> npt.NDArray[Any]:
        # Mapped anew for each tensor: pages that were read leave with the mapping.
        value = load()[name]
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()

    return set(load()), read
