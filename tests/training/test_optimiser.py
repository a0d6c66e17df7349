"""Rates by layer, by schedule and over time, seen in what the loop does to the weights and writes to its curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.glm import tiny_glm
from support.streams import OnePair
from support.tiny import tiny_checkpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.config import OptimiserConfig
from training.loop import Journal, train
from training.loop.speed import Speedometer, matmul_peak
from training.models.base import RelevanceModel
from training.models.encoder import RelevanceEncoder
from training.models.glm.relevance import RelevanceGlm
from training.streams import Batch


def everything(model: RelevanceModel, batch: Batch) -> torch.Tensor:
    """A loss with the same gradient for every weight: Adam's first step is then exactly the rate."""
    return sum((p.sum() for p in model.parameters() if p.requires_grad), torch.zeros(()))


def first_step(model: RelevanceModel, **options: Any) -> dict[str, float]:
    """How far each weight moved in one step without decay."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flat = {"tokens": 5, "learning_rate": 1e-3, "warmup": 0.0, "weight_decay": 0.0, "clip_norm": 1e6}
    train(model, OnePair(), everything, OptimiserConfig.model_validate(flat | options), title="t")
    after = model.state_dict()
    return {
        name: float((before[name] - after[name]).abs().mean())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def test_lower_layers_of_a_glm_learn_slower_and_new_weights_faster() -> None:
    model = RelevanceGlm(tiny_glm(segment_count=4), yes=1, no=2)
    moved = first_step(model, layer_decay=0.5, new_weights_factor=8.0)
    assert moved["glm.transformer.final_layernorm.weight"] == pytest.approx(1e-3, rel=1e-3)
    assert moved["glm.transformer.layers.1.mlp.dense_h_to_4h.weight"] == pytest.approx(5e-4, rel=1e-3)
    assert moved["glm.transformer.layers.0.attention.dense.bias"] == pytest.approx(2.5e-4, rel=1e-3)
    for table in ("word_embeddings", "transformer.position_embeddings"):
        assert moved[f"glm.{table}.weight"] == pytest.approx(1.25e-4, rel=1e-3)
    assert moved["glm.transformer.segment_embeddings.weight"] == pytest.approx(8e-3, rel=1e-3)


def test_lower_layers_of_an_encoder_learn_slower_and_its_head_faster(tmp_path: Path) -> None:
    model = RelevanceEncoder(tiny_checkpoint(tmp_path), segments=4, dropout=0.0)
    moved = first_step(model, layer_decay=0.5, new_weights_factor=8.0)
    layers = "masked_lm.bert.encoder.layer"
    assert moved[f"{layers}.1.attention.self.query.weight"] == pytest.approx(5e-4, rel=1e-3)
    assert moved[f"{layers}.0.output.dense.bias"] == pytest.approx(2.5e-4, rel=1e-3)
    assert moved["masked_lm.bert.embeddings.LayerNorm.weight"] == pytest.approx(1.25e-4, rel=1e-3)
    assert moved["out.weight"] == pytest.approx(8e-3, rel=1e-3)
    assert moved["cosine_scale"] == pytest.approx(8e-3, rel=1e-3)


def test_without_layer_decay_all_layers_learn_alike() -> None:
    moved = first_step(RelevanceGlm(tiny_glm(), yes=1, no=2))
    assert set(np.round(list(moved.values()), 6)) == {1e-3}


def test_decay_shrinks_matrices_and_nothing_else() -> None:
    model = RelevanceGlm(tiny_glm(), yes=1, no=2)
    before = {name: float(value.norm()) for name, value in model.state_dict().items()}
    config = OptimiserConfig(tokens=50, learning_rate=1e-2, weight_decay=1.0, warmup=0.0)
    train(model, OnePair(), lambda m, b: everything(m, b) * 0.0, config, title="t")
    for name, value in model.state_dict().items():
        assert (float(value.norm()) < 0.99 * before[name]) == (value.ndim > 1), name


def rates(**options: Any) -> list[float]:
    """Peak 1 over 100 steps of 5 tokens; a point every 10 steps has the rate of its last."""
    config = OptimiserConfig.model_validate({"tokens": 500, "learning_rate": 1.0} | options)
    curve = train(
        RelevanceGlm(tiny_glm(num_layers=1), yes=1, no=2),
        OnePair(),
        lambda m, b: everything(m, b) * 0.0,
        config,
        title="t",
    )
    return [point["learning_rate"] for point in curve]


DONE = np.array([(10 * k - 1) / 100 for k in range(1, 11)])


def test_the_linear_schedule_rises_to_its_peak_and_falls_to_nothing() -> None:
    expected = np.interp(DONE, [0, 0.2, 1], [0, 1, 0])
    np.testing.assert_allclose(rates(warmup=0.2), expected, atol=1e-9)


def test_the_linear_schedule_ends_at_its_final_share() -> None:
    expected = np.interp(DONE, [0, 0.2, 1], [0, 1, 0.4])
    np.testing.assert_allclose(rates(warmup=0.2, final_share=0.4), expected, atol=1e-9)


def test_the_cosine_schedule_falls_to_a_tenth_as_glm_has_it() -> None:
    after = (1 + np.cos(np.pi * (DONE - 0.04) / 0.96)) / 2
    found = rates(warmup=0.04, schedule="cosine", final_share=0.1)
    np.testing.assert_allclose(found, 0.1 + 0.9 * after, atol=1e-9)
    assert found[-1] == pytest.approx(0.1, abs=1e-3)


def test_gradients_are_clipped_to_their_norm() -> None:
    model = RelevanceGlm(tiny_glm(), yes=1, no=2)
    stepped: list[float] = []
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        stepped.append(float(torch.cat([g.flatten() for g in grads]).norm()))
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        train(
            model,
            OnePair(),
            lambda m, b: 1e4 * everything(m, b),
            OptimiserConfig(tokens=5, clip_norm=0.7),
            title="t",
        )
    assert stepped == pytest.approx([0.7], rel=1e-3)


def test_tensorboard_shows_loss_rate_speed_and_use(tmp_path: Path) -> None:
    model = RelevanceGlm(tiny_glm(), yes=1, no=2)
    journal = Journal(tmp_path / "c", tmp_path / "events")
    curve = train(model, OnePair(), everything, OptimiserConfig(tokens=150), title="t", journal=journal)
    shown = EventAccumulator(str(tmp_path / "events")).Reload()
    assert set(shown.Tags()["scalars"]) == {"loss", "learning_rate", "tokens_per_s", "mfu"}
    for name in ("loss", "learning_rate", "tokens_per_s", "mfu"):
        events = shown.Scalars(name)
        assert [event.step for event in events] == [50, 100, 150]
        assert [event.value for event in events] == pytest.approx([point[name] for point in curve])
    assert all(point["tokens_per_s"] > 0 and 0 < point["mfu"] < 1 for point in curve)


def test_the_speedometer_counts_the_weights_that_multiply() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(1000, 8), torch.nn.Linear(8, 4))
    meter = Speedometer(model, precision="no")
    meter.add(600)
    speed, mfu = meter.read()
    assert mfu == pytest.approx(6 * (8 * 4 + 4) * speed / matmul_peak("cpu", "no"))


def test_measuring_the_peak_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    assert matmul_peak.__wrapped__("cpu", "no") > 1e9
    assert torch.equal(torch.get_rng_state(), before)
