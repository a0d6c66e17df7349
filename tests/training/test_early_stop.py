"""Dev is scored as often as asked, the best weights stay, and patience ends the training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.scripted import OneWeight

from model_repo.encoding import PairEncoder
from training.config import RenderConfig, SftConfig
from training.data.dataset import Dataset
from training.data.pairs import LabelledPair
from training.families.encoder import EncoderFamily
from training.loop import train
from training.rendering import PairSource
from training.stages.early_stop import EarlyStop
from training.streams import Batch

GAS = 3806  # "gas" in BERT's vocabulary


@pytest.fixture(scope="module")
def source(sample: Dataset) -> PairSource:
    family = EncoderFamily()
    assert family.tokenizer.token_to_id("gas") == GAS
    return PairSource(sample, PairEncoder(family.spec(sample, RenderConfig()), family.tokenizer))


def watch(sample: Dataset, source: PairSource, **changes: Any) -> EarlyStop:
    """Dev of which "gas" is relevant and "power" is not: AUC is 1, 1/2 or 0 by the sign of the weight."""
    items = list(sample.items)[:3]
    pairs = [
        LabelledPair(query, item, 3 if query == "gas" else 0) for query in ("gas", "power") for item in items
    ]
    config = SftConfig.model_validate({"optimiser": {"tokens": 100}, "evaluations": 10} | changes)
    return EarlyStop(pairs, source, sample.card.labels, config)


def test_the_best_weights_stay_and_patience_ends_it(sample: Dataset, source: PairSource) -> None:
    stop, model = watch(sample, source, patience=2), OneWeight(GAS)
    verdicts = []
    for step, weight in enumerate([-1.0, 0.0, 1.0, 0.0, -1.0], start=1):
        model.weight.data.fill_(weight)
        verdicts.append(stop(model, 10 * step))
    assert verdicts == [False, False, False, False, True]
    assert stop.history == [(10, 0.0), (20, 0.5), (30, 1.0), (40, 0.5), (50, 0.0)]
    stop.keep_best(model)
    assert float(model.weight) == 1.0


def test_an_equal_result_is_not_a_better_one(sample: Dataset, source: PairSource) -> None:
    stop, model = watch(sample, source, patience=1), OneWeight(GAS)
    model.weight.data.fill_(1.0)
    assert not stop(model, 10)
    model.weight.data.fill_(2.0)
    assert stop(model, 20)
    stop.keep_best(model)
    assert float(model.weight) == 1.0


def test_dev_is_scored_at_its_times_only_and_training_goes_on_in_training_mode(
    sample: Dataset, source: PairSource
) -> None:
    stop, model = watch(sample, source, patience=99), OneWeight(GAS).train()
    for tokens in range(4, 101, 4):
        stop(model, tokens)
        assert model.training
    assert [tokens for tokens, _ in stop.history] == [12, 20, 32, 40, 52, 60, 72, 80, 92, 100]


def test_without_an_evaluation_the_last_weights_stay(sample: Dataset, source: PairSource) -> None:
    stop, model = watch(sample, source), OneWeight(GAS)
    model.weight.data.fill_(7.0)
    stop.keep_best(model)
    assert float(model.weight) == 7.0


def test_only_whole_queries_up_to_the_limit_are_scored(sample: Dataset, source: PairSource) -> None:
    stop, model = watch(sample, source, dev_pairs=4), OneWeight(GAS)
    model.weight.data.fill_(1.0)
    stop(model, 10)
    assert stop.history == [(10, 0.5)]  # "gas" alone: one class has no AUC


class Gas:
    """One pair of ten tokens for ever."""

    def next(self) -> Batch:
        return Batch({"input_ids": torch.tensor([[101, GAS, 102]])}, 10)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: object) -> None:
        raise AssertionError("nothing to restore")


def test_the_loop_stops_when_the_watch_says_so(sample: Dataset, source: PairSource) -> None:
    stop, model = watch(sample, source, patience=3), OneWeight(GAS)
    config = SftConfig.model_validate({"optimiser": {"tokens": 100, "learning_rate": 0.1}}).optimiser
    # The loss pulls the weight below zero: from the first evaluation on, AUC is 0.
    curve = train(model, Gas(), lambda m, b: m(b.inputs).sum(), config, title="t", watch=stop)
    assert [auc for _, auc in stop.history] == [0.0] * 4
    assert curve[-1]["tokens"] == 40
    stop.keep_best(model)
    assert -0.11 < float(model.weight) < 0
