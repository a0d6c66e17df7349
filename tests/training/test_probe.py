"""What a change of the configuration is worth on dev, with test out of reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.data import short_sample
from support.tiny import tiny_checkpoint

from training.cli import main

TINY = """
bundle: tiny
render: {max_tokens: 64, query_budget: 12, role_budgets: {title: 8, keywords: 8, category: 6, body: 8}}
pretrain: {optimiser: {tokens: 1500}, batch_tokens: 512, max_document_tokens: 64}
sft: {optimiser: {tokens: 2000}}
"""


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    checkpoint = tiny_checkpoint(tmp_path / "start")
    config = tmp_path / "c.yaml"
    config.write_text(TINY + f"start: {checkpoint}\n")
    data = short_sample(tmp_path / "data")
    (data / "labels.test.tsv").unlink()
    out = tmp_path / "out"
    return ["probe", "--config", str(config), "--data", str(data), "--out", str(out), "--dev-queries", "8"]


def test_a_probe_measures_every_stage_without_a_test_split(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(stage in printed for stage in ("before any label", "SFT alone", "after SFT"))
    stages = json.loads((tmp_path / "out" / "probe.json").read_text())
    for by_slice in stages.values():
        auc = by_slice["all"]["auc"]
        assert auc["low"] <= auc["value"] <= auc["high"]


def test_a_change_reaches_the_configuration(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--set", "sft_alone=false", "--set", "sft.optimiser.tokens=900"]) == 0
    assert "SFT alone" not in capsys.readouterr().out
    curve = json.loads((tmp_path / "out" / "cprm.json").read_text())["curve"]
    assert 900 <= curve[-1]["tokens"] < 2000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sft_alone", "changes nothing"),
        ("bundle.x=1", "changes nothing"),
        ("sft.epochs=2", "sft.epochs"),
        ("seed=[", "the value is not YAML"),
    ],
)
def test_a_change_that_fits_nowhere_is_said(
    arguments: list[str], change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--set", change]) == 1
    assert message in capsys.readouterr().err
