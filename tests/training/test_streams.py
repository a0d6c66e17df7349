"""Streams go on exactly where their state says, in both families; the state survives a checkpoint file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.data import SAMPLE
from support.glm import tiny_glm_folder
from support.streams import mixture

from model_repo.encoding import PairEncoder
from training.config import PretrainConfig, RenderConfig, SftConfig
from training.data.dataset import load_dataset
from training.families import Family
from training.families.encoder import EncoderFamily
from training.families.glm import GlmFamily
from training.rendering import PairSource
from training.stages.pretrain import MixtureStream
from training.stages.sft import QueryStream
from training.streams import Batch, Cursor, Stream

MIXED = PretrainConfig.model_validate(
    {
        "optimiser": {"tokens": 1},
        "batch_tokens": 256,
        "max_document_tokens": 48,
        "objectives": {"language": 2.0, "contrast": 1.0, "joint": 1.0},
        "matching": {"contrast_tokens": 200},
    }
)


@pytest.fixture(scope="module", params=["encoder", "glm"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    if request.param == "encoder":
        return EncoderFamily()
    return GlmFamily(str(tiny_glm_folder(tmp_path_factory.mktemp("glm"))), label_words=("yes", "no"))


def mixed(family: Family, seed: int = 0) -> MixtureStream:
    return mixture(family, load_dataset(SAMPLE), MIXED, seed=seed)[0]


def queries(family: Family, seed: int = 0) -> QueryStream:
    dataset = load_dataset(SAMPLE)
    encoder = PairEncoder(family.spec(dataset, RenderConfig(max_tokens=96)), family.tokenizer)
    config = SftConfig.model_validate(
        {"optimiser": {"tokens": 1}, "queries_per_batch": 3, "items_per_query": 4}
    )
    # Twenty queries are an epoch of seven batches.
    names = sorted({pair.query for pair in dataset.labels("train")})[:20]
    pairs = [pair for pair in dataset.labels("train") if pair.query in set(names)]
    return QueryStream(pairs, PairSource(dataset, encoder), dataset.card.labels, config, seed=seed)


def same(first: Batch, second: Batch) -> bool:
    return (
        (first.tokens, first.objective) == (second.tokens, second.objective)
        and first.inputs.keys() == second.inputs.keys()
        and all(torch.equal(first.inputs[name], second.inputs[name]) for name in first.inputs)
    )


@pytest.mark.parametrize("make", [mixed, queries], ids=["mixture", "queries"])
def test_a_restored_stream_yields_the_identical_next_batches(
    family: Family, make: Callable[..., Stream], tmp_path: Path
) -> None:
    stream = make(family)
    for _ in range(17):  # beyond the first epoch
        stream.next()
    torch.save(stream.state(), tmp_path / "state")
    wanted = [stream.next() for _ in range(12)]
    fresh = make(family)
    state: dict[str, Any] = torch.load(tmp_path / "state", weights_only=True)
    fresh.restore(state)
    assert all(same(fresh.next(), batch) for batch in wanted)
    assert fresh.state() == stream.state()


@pytest.mark.parametrize("make", [mixed, queries], ids=["mixture", "queries"])
def test_batches_follow_from_the_seed(family: Family, make: Callable[..., Stream]) -> None:
    first, again, other = make(family), make(family), make(family, seed=1)
    batches = [(first.next(), again.next(), other.next()) for _ in range(5)]
    assert all(same(a, b) for a, b, _ in batches)
    assert not all(same(a, c) for a, _, c in batches)


def test_a_mixture_reads_its_corpora_by_every_objective_in_their_shares(family: Family) -> None:
    stream = mixed(family)
    found = [stream.next().objective for _ in range(400)]
    shares = {name: found.count(name) / 400 for name in sorted(set(found))}
    assert shares == pytest.approx({"contrast": 0.25, "joint": 0.25, "language": 0.5}, abs=0.07)


def test_tokens_of_a_batch_are_its_real_ones(family: Family) -> None:
    stream = mixed(family)
    pad = 0
    for _ in range(10):
        batch = stream.next()
        lengths = [value for name, value in batch.inputs.items() if name.split(".")[-1] == "lengths"]
        assert batch.tokens == sum(int(value.sum()) for value in lengths)
        ids = [value for name, value in batch.inputs.items() if name.split(".")[-1] == "input_ids"]
        for value, length in zip(ids, lengths, strict=True):
            behind = torch.arange(value.shape[1]) >= length[:, None]
            assert (value[behind] == pad).all()


def test_a_cursor_takes_everything_once_an_epoch_in_another_order() -> None:
    cursor = Cursor(9, seed=3, name="x")
    epochs = [[cursor.take() for _ in range(9)] for _ in range(3)]
    assert all(sorted(epoch) == list(range(9)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [Cursor(9, seed=3, name="y").take() for _ in range(9)] != epochs[0]
