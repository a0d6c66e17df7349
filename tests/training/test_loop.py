"""The loop spends its budget, stops on a broken loss, and repeats by seed; the command line says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.streams import OnePair
from torch import Tensor

from training.cli import main
from training.config import OptimiserConfig
from training.data.dataset import Dataset
from training.loop import DivergedError, train
from training.models.base import RelevanceModel
from training.models.encoder import RelevanceEncoder
from training.streams import Batch


@pytest.fixture
def model(tmp_path: Path) -> RelevanceEncoder:
    from support.tiny import tiny_checkpoint

    start = tiny_checkpoint(tmp_path)
    torch.manual_seed(0)
    return RelevanceEncoder(start, segments=4, dropout=0.0)


def towards_two(model: RelevanceModel, batch: Batch) -> Tensor:
    return (model(batch.inputs) - 2.0).square().mean()


def test_the_loop_learns_and_spends_exactly_its_budget(model: RelevanceEncoder) -> None:
    curve = train(model, OnePair(), towards_two, OptimiserConfig(tokens=200, learning_rate=1e-3), title="t")
    assert curve[-1]["tokens"] == 200
    assert curve[-1]["loss"] < 0.1 * curve[0]["loss"]
    assert curve[-1]["learning_rate"] < 0.1e-3


def test_a_loss_that_is_no_number_stops_the_run(model: RelevanceEncoder) -> None:
    with pytest.raises(DivergedError, match="lower the learning rate"):
        train(
            model,
            OnePair(),
            lambda m, b: m(b.inputs).sum() * float("nan"),
            OptimiserConfig(tokens=50),
            title="t",
        )


def test_stages_may_differ_in_precision(model: RelevanceEncoder) -> None:
    for precision in ("bf16", "no"):
        config = OptimiserConfig(tokens=20, precision=precision)  # type: ignore[arg-type]
        assert train(model, OnePair(), towards_two, config, title=precision)


def test_segments_grow_from_the_types_that_fit(model: RelevanceEncoder) -> None:
    table = model.masked_lm.base_model.embeddings.token_type_embeddings.weight
    assert table.shape[0] == 4
    assert torch.equal(table[0], table[1])
    assert torch.equal(table[2], table[3])
    assert not torch.equal(table[1], table[2])


def test_without_the_cosine_start_its_term_is_off_for_good(tmp_path: Path) -> None:
    from support.tiny import tiny_checkpoint

    plain = RelevanceEncoder(tiny_checkpoint(tmp_path), segments=4, dropout=0.0, cosine=False)
    train(plain, OnePair(), towards_two, OptimiserConfig(tokens=50, learning_rate=1e-3), title="t")
    assert float(plain.cosine_scale) == 0.0


def test_data_check_prints_counts_and_returns_its_verdict(
    sample: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(sample.root)]) == 0
    assert "29,544 pairs, 1,231 queries" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "dataset.json: missing" in capsys.readouterr().out
