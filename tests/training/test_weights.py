"""Weights are read one by one, and stored once for all graphs of a version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from training.export.weights import WeightFile, folder_weights, random_weights

SHAPES = {"a.weight": (5, 3), "b.bias": (4,), "scale": ()}


def stored(path: Path, tensor: object) -> np.ndarray:
    entries = {entry.key: entry.value for entry in tensor.external_data}  # type: ignore[attr-defined]
    count = int(entries["length"]) // 2
    return np.fromfile(path, np.float16, count, offset=int(entries["offset"])).reshape(tensor.dims)  # type: ignore[attr-defined]


def test_a_tensor_and_runs_of_its_rows_are_stored_once(tmp_path: Path) -> None:
    weights = random_weights(SHAPES)
    path = tmp_path / "weights.bin"
    with WeightFile(path, weights) as file:
        for name in SHAPES:
            file.tensor(name)
        file.flush()
        size = path.stat().st_size
        whole, run = file.tensor("a.weight"), file.tensor("a.weight", slice(1, 3))
    assert path.stat().st_size == size
    np.testing.assert_array_equal(stored(path, whole), weights("a.weight"))
    np.testing.assert_array_equal(stored(path, run), weights("a.weight")[1:3])


def test_every_tensor_starts_on_a_page(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "weights.bin", random_weights(SHAPES)) as file:
        places = [{e.key: e.value for e in file.tensor(name).external_data}["offset"] for name in SHAPES]
    assert [int(place) % 4096 for place in places] == [0, 0, 0]


def test_a_weight_beyond_half_precision_is_named(tmp_path: Path) -> None:
    with (
        WeightFile(tmp_path / "weights.bin", lambda _: np.array([1e6], dtype=np.float32)) as file,
        pytest.raises(ValueError, match=r"b\.bias: a weight exceeds"),
    ):
        file.tensor("b.bias")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_checkpoint_folder_gives_what_torch_wrote(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    state = {name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}
    if kind == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        save_file(state, tmp_path / "model.safetensors")
    read = folder_weights(tmp_path)
    for name, value in state.items():
        np.testing.assert_array_equal(read(name).astype(np.float32), value.float().numpy())


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        folder_weights(tmp_path)


def test_weights_made_on_the_spot_depend_on_their_name_alone() -> None:
    one, other = random_weights(SHAPES), random_weights(dict(reversed(SHAPES.items())))
    np.testing.assert_array_equal(one("a.weight"), other("a.weight"))
    assert not np.array_equal(one("a.weight").ravel()[:4], one("b.bias"))
