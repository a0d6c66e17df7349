"""Matching: which pairs are matches, that no match is ever a negative, and the two losses by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pytest
import torch
from support.streams import by_letters
from torch import Tensor

from model_repo.encoding import PairEncoder
from training.config import RenderConfig
from training.corpus.document import Document, Segment
from training.data.dataset import Dataset
from training.families.encoder import EncoderFamily
from training.models.base import RelevanceModel
from training.objectives.matching import MatchingConfig, MatchPool, contrast_loss, joint_loss


@pytest.fixture(scope="module")
def encoder(sample: Dataset) -> PairEncoder:
    family = EncoderFamily()
    return PairEncoder(family.spec(sample, RenderConfig()), family.tokenizer)


def item(name: str, title: str) -> tuple[Segment, Segment]:
    return Segment("title", title, name), Segment("category", f"{title} shops", name)


def asks(text: str) -> Segment:
    return Segment("query", text)


GAS, OIL, SUN = item("gas", "gas"), item("oil", "oil"), item("sun", "sun")
DOCUMENTS = [
    Document("dke", "gas", (*GAS, asks("warm home"))),
    Document("dke", "oil", (*OIL, asks("tank full"))),
    Document("icp", "1", (asks("heating"), *GAS, *OIL)),
    Document("dke", "sun", SUN),
]


ITEMS = {
    name: {"title": name, "category": f"{name} shops", "services": ["delivery"]}
    for name in ("gas", "oil", "sun", "aab", "aaab", "zz", "xyz")
}


def pool_of(
    encoder: PairEncoder, documents: Sequence[Document] = DOCUMENTS, *, near: bool = True, **options: int
) -> MatchPool:
    vectors = by_letters if near else None
    return MatchPool(documents, encoder, MatchingConfig(**options), items=ITEMS, vectors=vectors)


def text(encoder: PairEncoder, ids: Sequence[int]) -> str:
    return encoder._tokenizer.decode(list(ids))


class Fixed:
    """A model whose answers the test has written down: vectors by first token, logits in order."""

    def __init__(
        self, vectors: Mapping[int, list[float]] | None = None, logits: list[float] | None = None
    ) -> None:
        self._vectors, self._logits = vectors or {}, logits or []

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        return torch.tensor([self._vectors[int(row[1])] for row in batch["input_ids"]])

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        assert len(batch["input_ids"]) == len(self._logits)
        return torch.tensor(self._logits)


def test_a_text_matches_the_item_next_to_it_and_a_lone_item_its_first_field(encoder: PairEncoder) -> None:
    pairs = [(match.said, match.of) for match in pool_of(encoder, near=False).matches]
    assert pairs == [("warm home", "gas"), ("tank full", "oil"), ("heating", "gas"), ("sun", "sun")]


def test_a_lone_item_is_not_matched_with_the_field_it_is_asked_by(encoder: PairEncoder) -> None:
    pool = pool_of(encoder)
    sun = pool.matches[-1]
    assert text(encoder, pool.fields(sun, "sun")["category"]) == "sun shops"
    # Nor are its rivals: a missing title would tell which item is the right one.
    assert not any(pool.fields(sun, name)["title"] for name in ("sun", "gas", "oil"))


def test_items_are_read_with_all_their_fields_whatever_the_document_shows(encoder: PairEncoder) -> None:
    pool = pool_of(encoder, near=False)
    fields = pool.fields(pool.matches[0], "gas")
    assert [text(encoder, fields[name]) for name in ("title", "category", "services")] == [
        "gas", "gas shops", "delivery",
    ]  # fmt: skip


def test_excluded_are_same_texts_same_items_and_texts_of_one_document(encoder: PairEncoder) -> None:
    pool = pool_of(encoder, near=False)
    excluded = pool.contrast_batch(pool.matches)["excluded"].tolist()
    assert excluded == [
        [False, False, True, False],  # the same item as "heating"
        [False, False, False, False],
        [True, True, False, False],  # "heating" stands beside gas and oil
        [False, False, False, False],
    ]


def test_a_contrast_batch_holds_both_sides_under_their_segments(encoder: PairEncoder) -> None:
    pool = pool_of(encoder, near=False)
    batch = pool.contrast_batch(pool.matches[:2])
    assert batch["text.segment_ids"].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0]]
    assert batch["text.lengths"].tolist() == [4, 4]
    kinds = encoder.spec.segments
    shops = [kinds["category"]] * 2
    assert batch["item.segment_ids"][0].tolist() == [0, kinds["title"], *shops, kinds["services"], 0]
    assert text(encoder, batch["item.input_ids"][1][1:-1]) == "oil oil shops delivery"


@pytest.mark.parametrize("seed", range(20))
def test_a_known_match_is_never_a_negative(encoder: PairEncoder, seed: int) -> None:
    pool = pool_of(encoder, near_negatives=3, far_negatives=6)
    heating = pool.matches[2]
    batch = pool.joint_batch([heating], np.random.default_rng(seed))
    rows = [text(encoder, row[:n]) for row, n in zip(batch["input_ids"], batch["lengths"], strict=True)]
    assert "gas" in rows[0]
    assert batch["gains"].tolist() == [1.0, *[0.0] * (len(rows) - 1)]
    assert len(rows) == 2  # of gas, oil and sun only sun may stand against "heating"
    assert "sun" in rows[1]


def test_near_negatives_are_the_closest_items(encoder: PairEncoder) -> None:
    near = [
        Document("dke", name, (*item(name, name), asks(f"ask {name}")))
        for name in ("aab", "aaab", "zz", "xyz")
    ]
    pool = pool_of(encoder, near, near_negatives=1, far_negatives=0, neighbours=1)
    for seed in range(5):
        batch = pool.joint_batch([pool.matches[0]], np.random.default_rng(seed))
        assert len(batch["gains"]) == 2
        assert "aaab shops" in text(encoder, batch["input_ids"][1]).replace(" ##", "")


def test_groups_number_the_texts_of_a_joint_batch(encoder: PairEncoder) -> None:
    pool = pool_of(encoder)
    batch = pool.joint_batch(pool.matches[:2], np.random.default_rng(0))
    first = np.flatnonzero(batch["gains"] == 1)
    assert batch["groups"][first].tolist() == [0, 1]
    assert np.all(np.diff(batch["groups"]) >= 0)


def test_the_contrast_loss_is_symmetric_infonce_without_the_excluded(encoder: PairEncoder) -> None:
    pool = pool_of(encoder, near=False)
    batch = {k: torch.from_numpy(v) for k, v in pool.contrast_batch(pool.matches).items()}
    angles = np.linspace(0.1, 2.4, 8)
    said, items = (np.stack([np.cos(a), np.sin(a)], axis=1) for a in (angles[:4], angles[[6, 5, 7, 4]]))
    vectors = {int(row[1]): said[n].tolist() for n, row in enumerate(batch["text.input_ids"])}

    class Sides(Fixed):
        def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
            is_text = bool((batch["segment_ids"] == 1).any())
            return super().embed(batch) if is_text else torch.tensor(items, dtype=torch.float32)

    scores = 5.0 * said @ items.T
    scores[batch["excluded"].numpy()] = -np.inf
    rows = np.log(np.exp(scores).sum(1)) - np.diag(scores)
    columns = np.log(np.exp(scores).sum(0)) - np.diag(scores)
    model = cast("RelevanceModel", Sides(vectors))
    found = contrast_loss(model, batch, scale=5.0)
    assert float(found) == pytest.approx((rows.mean() + columns.mean()) / 2, rel=1e-5)
    unmasked = contrast_loss(model, batch | {"excluded": torch.zeros(4, 4, dtype=torch.bool)}, scale=5.0)
    assert float(unmasked) > float(found)


def test_the_joint_loss_is_softmax_over_an_item_and_its_negatives(encoder: PairEncoder) -> None:
    batch = {
        "input_ids": torch.zeros(5, 3),
        "gains": torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0]),
        "groups": torch.tensor([0, 0, 0, 1, 1]),
    }
    logits = [1.0, 0.5, -1.0, 0.0, 2.0]
    first = -np.log(np.exp(1.0) / np.exp(logits[:3]).sum())
    second = -np.log(1.0 / (1.0 + np.exp(2.0)))
    found = joint_loss(cast("RelevanceModel", Fixed(logits=logits)), batch)
    assert float(found) == pytest.approx((first + second) / 2, rel=1e-6)


def test_an_embedding_ignores_padding_and_template(sample: Dataset, encoder: PairEncoder) -> None:
    pool = pool_of(encoder, near=False)
    model = EncoderFamily().model(segments=encoder.spec.segment_count, dropout=0.0).eval()
    batch = pool.contrast_batch(pool.matches)
    side = {k.removeprefix("item."): torch.from_numpy(v) for k, v in batch.items() if k.startswith("item.")}
    with torch.no_grad():
        together = model.embed(side)
        length = int(side["lengths"][3])
        alone = model.embed(
            {
                "input_ids": side["input_ids"][3:, :length],
                "segment_ids": side["segment_ids"][3:, :length],
                "lengths": side["lengths"][3:],
            }
        )
    assert length < side["input_ids"].shape[1]
    torch.testing.assert_close(together[3:], alone, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
