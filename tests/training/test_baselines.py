"""The trained baselines on a toy shop: words of a topic in query and item."""

from __future__ import annotations

import json
import random
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import BertConfig, BertModel

from training.baselines import BASELINES, score_baseline
from training.baselines.budget import rows_within_budget, targets, training_pairs
from training.baselines.cross_encoder import cross_encoder, pair_lengths
from training.baselines.dssm import dssm, trigrams
from training.config import ConfigError, RunConfig
from training.data.dataset import Dataset, load_dataset
from training.data.pairs import LabelledPair
from training.models.checkpoint import minilm_path

TOPICS = (
    ("guitar", "drum", "violin", "piano"),
    ("apple", "bread", "cheese", "honey"),
    ("bus", "train", "ferry", "taxi"),
    ("sofa", "lamp", "carpet", "mirror"),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """12 items, 48 queries of two words; a pair is 3 where the topics agree, else 0."""
    root, rng = tmp_path_factory.mktemp("shop"), random.Random(0)
    card = {
        "name": "toys",
        "language": "en",
        "licence": "CC0-1.0",
        "item_fields": [{"name": "title", "role": "title"}, {"name": "tags", "role": "keywords"}],
        "labels": {"scale": [0, 3], "relevant_from": 2},
    }
    (root / "dataset.json").write_text(json.dumps(card))
    items = {f"i{n:02d}": n % len(TOPICS) for n in range(12)}
    rows = (
        {"item_id": item_id, "fields": {"title": rng.choice(TOPICS[t]), "tags": rng.sample(TOPICS[t], 2)}}
        for item_id, t in items.items()
    )
    (root / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [(" ".join(pair), t) for t, words in enumerate(TOPICS) for pair in _ordered_pairs(words)]
    rng.shuffle(queries)
    for split, part in {"train": queries[:32], "dev": queries[32:40], "test": queries[40:]}.items():
        lines = [f"{q}\t{item_id}\t{3 * (t == topic)}" for q, t in part for item_id, topic in items.items()]
        (root / f"labels.{split}.tsv").write_text("\n".join(["query\titem_id\tlabel", *lines]) + "\n")
    return load_dataset(root)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two narrow layers with random weights and MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=30522, **sizes)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(minilm_path() / name, folder)
    return folder


def test_the_budget_buys_whole_epochs_in_new_orders_and_never_more() -> None:
    lengths = np.array([10, 20, 30, 40])
    rows = rows_within_budget(lengths, 250, seed=0)
    assert sorted(rows[:4]) == sorted(rows[4:8]) == [0, 1, 2, 3]
    assert 200 <= lengths[rows].sum() <= 250
    assert rows.tolist() == rows_within_budget(lengths, 250, seed=0).tolist()
    assert rows.tolist() != rows_within_budget(lengths, 250, seed=1).tolist()
    assert len(rows_within_budget(lengths, 1, seed=0)) == 1


def test_labels_and_targets_are_those_of_sft(shop: Dataset) -> None:
    config = run_config(tokens=100, label_share=0.25)
    pairs = training_pairs(shop, config)
    assert len({pair.query for pair in pairs}) == 8
    assert set(targets(pairs, shop, config).tolist()) == {0.0, 1.0}
    graded = [LabelledPair("q", "i00", grade) for grade in range(4)]
    assert targets(graded, shop, config).tolist() == [0, 0.25, 0.75, 1]
    assert targets(graded, shop, run_config(tokens=100, targets="binary")).tolist() == [0, 0, 1, 1]


def test_trigrams_mark_the_ends_of_words() -> None:
    assert len(trigrams("Cat")) == 3
    assert trigrams("cat").tolist() == trigrams("CAT!").tolist()
    assert set(trigrams("cat")) & set(trigrams("scat")) == set(trigrams("cat")[1:])
    assert trigrams("?").tolist() == [0]


def test_a_dssm_learns_topics_from_the_labels(shop: Dataset) -> None:
    assert auc(shop, dssm(shop, run_config(tokens=20_000), no_embedder)) > 0.9


@pytest.mark.parametrize("name", ["dssm", "sbert-cross-encoder"])
def test_the_seed_settles_the_scores(name: str, shop: Dataset, start: Path) -> None:
    first, again, other = (
        BASELINES[name](shop, run_config(tokens=1000, seed=seed, start=start), no_embedder)(
            shop.labels("dev")
        )
        for seed in (0, 0, 1)
    )
    assert first.dtype == np.float32
    assert first.shape == (len(shop.labels("dev")),)
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_the_cross_encoder_spends_its_tokens_and_asks_no_server(
    shop: Dataset, start: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers import BertForSequenceClassification

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a server was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.chdir(tmp_path)
    seen, forward = [0], BertForSequenceClassification.forward

    def counted(self: BertForSequenceClassification, *args: object, **kwargs: object) -> object:
        if self.training:
            seen[0] += int(kwargs["attention_mask"].sum())  # type: ignore[attr-defined]
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BertForSequenceClassification, "forward", counted)
    config = run_config(tokens=3000, start=start, label_share=0.5)
    score = cross_encoder(shop, config, no_embedder)
    assert 3000 - config.render.max_tokens <= seen[0] <= 3000
    assert not list(tmp_path.iterdir())
    alone, together = score(shop.labels("dev")[:1]), score(shop.labels("dev"))
    assert together[0] == pytest.approx(alone[0], abs=1e-5)


def test_pair_lengths_are_what_the_tokenizer_says(shop: Dataset, start: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(start)
    pairs = shop.labels("dev")
    texts = [pair.query for pair in pairs], [shop.item_text(pair.item_id) for pair in pairs]
    whole = tokenizer(*texts, truncation=True, max_length=12)["input_ids"]
    assert pair_lengths(shop, pairs, tokenizer, max_tokens=12).tolist() == [len(ids) for ids in whole]


def test_every_baseline_scores_dev_and_test(shop: Dataset, start: Path) -> None:
    config = run_config(tokens=500, start=start)
    for name in BASELINES:
        scores = score_baseline(name, shop, config, two_letters)
        assert (len(scores.dev), len(scores.test)) == (len(shop.labels("dev")), len(shop.labels("test")))
        assert np.isfinite(scores.dev).all()


def test_an_unknown_baseline_is_refused_with_the_known_ones(shop: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"'tf-idf'.*bm25, minilm-cosine, dssm, sbert-cross-encoder"):
        score_baseline("tf-idf", shop, run_config(tokens=1), no_embedder)


def run_config(*, tokens: int, seed: int = 0, start: Path | None = None, **sft: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "bundle": "toys",
            "seed": seed,
            "start": str(start) if start else None,
            "pretrain": {"optimiser": {"tokens": 1}},
            "sft": {"optimiser": {"tokens": tokens}, **sft},
        }
    )


def auc(dataset: Dataset, score: object) -> float:
    pairs = dataset.labels("dev")
    relevant = [pair.label >= dataset.card.labels.relevant_from for pair in pairs]
    return float(roc_auc_score(relevant, score(pairs)))  # type: ignore[operator]


def no_embedder(texts: object) -> np.ndarray:
    raise AssertionError("a trained baseline needs no embedder")


def two_letters(texts: list[str]) -> np.ndarray:
    return np.array([[text.count("a"), text.count("e")] for text in texts], dtype=np.float32)


def _ordered_pairs(words: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(first, second) for first in words for second in words if first != second]
