"""What fine-tuning reads of the labels: targets, weights, batches of queries, shares of queries."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest
import torch
from torch.nn import functional

from model_repo.encoding import PairEncoder
from training.config import RenderConfig, SftConfig
from training.data.dataset import Dataset, LabelScale
from training.data.pairs import LabelledPair
from training.families.encoder import EncoderFamily
from training.models.base import RelevanceModel
from training.objectives.ranking import listwise_loss, margin_loss
from training.rendering import PairSource
from training.stages.sft import QueryStream, graded_target, relevance_loss, share_of_queries
from training.streams import Batch

SCALE = LabelScale(scale=(0, 3), relevant_from=2)


@pytest.fixture(scope="module")
def source(sample: Dataset) -> PairSource:
    family = EncoderFamily()
    return PairSource(sample, PairEncoder(family.spec(sample, RenderConfig()), family.tokenizer))


def config(**changes: Any) -> SftConfig:
    return SftConfig.model_validate({"optimiser": {"tokens": 1000}} | changes)


def pairs(sample: Dataset, queries: int = 6, items: int = 4) -> list[LabelledPair]:
    """Every grade once or more a query."""
    ids = list(sample.items)
    return [
        LabelledPair(f"query {q}", ids[q * items + i], i % 4) for q in range(queries) for i in range(items)
    ]


def first_batch(sample: Dataset, source: PairSource, **changes: Any) -> Batch:
    return QueryStream(pairs(sample), source, SCALE, config(**changes), seed=0).next()


def test_graded_targets_stay_on_their_side_of_one_half() -> None:
    assert [graded_target(label, SCALE) for label in range(4)] == [0.0, 0.25, 0.75, 1.0]
    binary = LabelScale(scale=(0, 1), relevant_from=1)
    assert [graded_target(label, binary) for label in range(2)] == [0.0, 1.0]


def test_targets_are_graded_or_binary_and_gains_those_of_ndcg(sample: Dataset, source: PairSource) -> None:
    graded, binary = (first_batch(sample, source, targets=kind).inputs for kind in ("graded", "binary"))
    by_gain = {0.0: (0.0, 0.0), 1.0: (0.25, 0.0), 3.0: (0.75, 1.0), 7.0: (1.0, 1.0)}
    assert set(graded["gains"].tolist()) == set(by_gain)
    found = zip(graded["gains"].tolist(), graded["targets"].tolist(), binary["targets"].tolist(), strict=True)
    assert all(by_gain[gain] == (target, hit) for gain, target, hit in found)


def test_relevant_pairs_weigh_more_where_asked(sample: Dataset, source: PairSource) -> None:
    inputs = first_batch(sample, source, positive_weight=3.0).inputs
    assert inputs["weights"].tolist() == [3.0 if gain >= 3 else 1.0 for gain in inputs["gains"].tolist()]
    assert set(first_batch(sample, source).inputs["weights"].tolist()) == {1.0}


def test_a_batch_holds_whole_groups_of_different_queries(sample: Dataset, source: PairSource) -> None:
    batch = first_batch(sample, source, queries_per_batch=3, items_per_query=2)
    assert batch.inputs["groups"].tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.tokens == int(batch.inputs["lengths"].sum())


def test_an_epoch_takes_every_query_once(sample: Dataset, source: PairSource) -> None:
    stream = QueryStream(pairs(sample), source, SCALE, config(queries_per_batch=2), seed=0)
    seen: Counter[str] = Counter()
    for _ in range(3):
        inputs = stream.next().inputs
        for group in (0, 1):
            row = inputs["input_ids"][inputs["groups"] == group][0]
            seen[str(row[inputs["segment_ids"][inputs["groups"] == group][0] == 1].tolist())] += 1
    assert sorted(seen.values()) == [1] * 6


class Fixed:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def __call__(self, inputs: object) -> torch.Tensor:
        return self.logits


def test_the_loss_is_weighted_cross_entropy_and_the_other_losses_by_their_factors() -> None:
    logits = torch.tensor([0.3, -1.2, 2.0])
    inputs = {
        "targets": torch.tensor([1.0, 0.25, 0.0]),
        "weights": torch.tensor([4.0, 1.0, 1.0]),
        "gains": torch.tensor([7.0, 1.0, 0.0]),
        "groups": torch.tensor([0, 0, 0]),
    }
    p = torch.sigmoid(logits)
    entropy = -(inputs["targets"] * p.log() + (1 - inputs["targets"]) * (1 - p).log())
    plain = (inputs["weights"] * entropy).mean()
    model = cast("RelevanceModel", Fixed(logits))

    def loss(**changes: float) -> torch.Tensor:
        return relevance_loss(config(**changes))(model, Batch(inputs, 3))

    ranked = listwise_loss(logits, inputs["gains"], inputs["groups"])
    hinge = margin_loss(logits, inputs["gains"], inputs["groups"], 0.5)
    torch.testing.assert_close(loss(listwise_weight=0.0), plain)
    torch.testing.assert_close(loss(listwise_weight=0.7), plain + 0.7 * ranked)
    torch.testing.assert_close(loss(listwise_weight=0.0, margin_weight=2.0, margin=0.5), plain + 2.0 * hinge)
    assert not torch.isclose(plain, functional.binary_cross_entropy_with_logits(logits, inputs["targets"]))


def test_smaller_shares_lie_within_larger_ones_and_keep_queries_whole(sample: Dataset) -> None:
    everything = pairs(sample, queries=50, items=3)
    shares = [share_of_queries(everything, share, seed=4) for share in (0.1, 0.3, 1.0)]
    assert [len({pair.query for pair in kept}) for kept in shares] == [5, 15, 50]
    assert set(shares[0]) < set(shares[1]) < set(shares[2])
    assert shares[2] == everything
    for kept in shares:
        assert set(Counter(pair.query for pair in kept).values()) == {3}


def test_a_share_is_drawn_by_the_seed_and_never_below_two_queries(sample: Dataset) -> None:
    everything = pairs(sample, queries=50, items=1)
    first, same, other = (share_of_queries(everything, 0.2, seed=seed) for seed in (1, 1, 2))
    assert first == same != other
    assert len(share_of_queries(everything, 0.001, seed=0)) == 2
