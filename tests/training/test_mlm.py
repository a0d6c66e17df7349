"""Masking at token and at segment level, on exact lists."""

from __future__ import annotations

import numpy as np
import pytest

from model_repo.encoding import PairEncoder
from training.config import RenderConfig
from training.corpus.document import Document, Segment
from training.data.dataset import Dataset
from training.families.encoder import EncoderFamily
from training.objectives.mlm import IGNORE, MlmConfig, mask_batch
from training.objectives.rows import tokenise_documents


@pytest.fixture(scope="module")
def encoder(sample: Dataset) -> PairEncoder:
    family = EncoderFamily()
    return PairEncoder(family.spec(sample, RenderConfig()), family.tokenizer)


DOCUMENT = Document(
    "dke", "a", (Segment("title", "gas power"), Segment("query", "pay"), Segment("services", "x " * 9))
)


def test_segments_carry_the_ids_of_their_fields(encoder: PairEncoder) -> None:
    (row,) = tokenise_documents([DOCUMENT], encoder, max_tokens=64, separate=True)
    assert row.segment_ids.tolist() == [0, 2, 2, 0, 1, 0, *[6] * 9, 0]
    assert row.spans == ((1, 3), (4, 5), (6, 15))


def test_a_document_of_invisible_characters_gives_no_row(encoder: PairEncoder) -> None:
    invisible = Document("dke", "A", (Segment("title", "\u200b"),))
    rows = tokenise_documents([invisible, DOCUMENT], encoder, max_tokens=64, separate=True)
    assert [len(row.spans) for row in rows] == [3]


def test_a_long_document_loses_from_its_longest_segment(encoder: PairEncoder) -> None:
    (row,) = tokenise_documents([DOCUMENT], encoder, max_tokens=12, separate=True)
    assert len(row) == 12
    assert [end - start for start, end in row.spans] == [2, 1, 5]


def masked(encoder: PairEncoder, config: MlmConfig, seed: int) -> tuple[dict[str, np.ndarray], object]:
    rows = tokenise_documents([DOCUMENT] * 8, encoder, max_tokens=64, separate=True)
    arrays = mask_batch(
        rows, config, rng=np.random.default_rng(seed), vocab_size=30522, special_ids=encoder.spec.special_ids
    )
    return arrays, rows[0]


@pytest.mark.parametrize("seed", range(5))
def test_segment_masking_hides_whole_segments_and_no_more_than_its_share(
    encoder: PairEncoder, seed: int
) -> None:
    arrays, row = masked(encoder, MlmConfig(segment_rate=0.999, max_segment_share=0.5), seed)
    for labels, ids in zip(arrays["labels"], arrays["input_ids"], strict=True):
        hidden = labels != IGNORE
        for start, end in row.spans:  # type: ignore[attr-defined]
            assert hidden[start:end].all() or not hidden[start:end].any()
        assert 1 <= hidden.sum() <= 6
        assert (ids[hidden] == 103).all()


@pytest.mark.parametrize("seed", range(5))
def test_special_tokens_are_never_hidden(encoder: PairEncoder, seed: int) -> None:
    arrays, row = masked(encoder, MlmConfig(segment_rate=0), seed)
    special = np.isin(row.input_ids, [101, 102])  # type: ignore[attr-defined]
    assert (arrays["labels"][:, special] == IGNORE).all()
    assert ((arrays["labels"] != IGNORE).sum(1) == 2).all()  # 15% of 12


def test_the_same_seed_masks_the_same(encoder: PairEncoder) -> None:
    first, second = (masked(encoder, MlmConfig(), 7)[0] for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
