"""A GLM of any depth is written in the memory of its largest tensor."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from support.glm import tiny_glm_folder

from training.export.glm_graph import random_glm_drawing
from training.export.large import main
from training.export.writer import write_graphs
from training.models.glm.config import named_config


def peak_bytes(layers: int, folder: Path) -> int:
    folder.mkdir()
    drawing = random_glm_drawing(named_config("glm-2b", num_layers=layers, hidden_size=256, vocab_size=128))
    tracemalloc.start()
    try:
        write_graphs(drawing, folder, ["fp16"])
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_layers(tmp_path: Path) -> None:
    few, many = peak_bytes(2, tmp_path / "few"), peak_bytes(8, tmp_path / "many")
    largest = 2 * 1024 * 256
    assert (tmp_path / "many" / "weights.bin").stat().st_size > 20 * largest
    assert many < 1.3 * few < 8 * largest


@pytest.mark.parametrize("start", [False, True], ids=["made weights", "a checkpoint folder"])
def test_the_command_reports_what_it_took(
    start: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        ["--start", str(tiny_glm_folder(tmp_path / "start"))]
        if start
        else ["--size", "glm-tiny", "--layers", "1"]
    )
    assert main(["--out", str(tmp_path / "out"), *source]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["peak_rss_mb"] >= report["peak_rss_before_mb"] > 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.fp16.onnx", "weights.bin"]
