"""Relevance as a cloze: what is read, where, and that company, padding and seeds change what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.glm import tiny_glm_folder

from model_repo.encoding import EncodedPairs, PairEncoder
from training.config import ConfigError, RenderConfig
from training.data.dataset import Dataset
from training.evaluation.predict import predict
from training.families.glm import GlmFamily
from training.models.base import to_tensors
from training.models.glm.heads import single_token_cloze
from training.models.glm.relevance import RelevanceGlm


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> GlmFamily:
    folder = tiny_glm_folder(tmp_path_factory.mktemp("glm"), segment_count=7)
    return GlmFamily(str(folder), label_words=("yes", "no"))


@pytest.fixture(scope="module")
def encoder(family: GlmFamily, sample: Dataset) -> PairEncoder:
    return PairEncoder(family.spec(sample, RenderConfig(max_tokens=120)), family.tokenizer)


@pytest.fixture(scope="module")
def pairs(encoder: PairEncoder) -> EncodedPairs:
    """Pairs of many lengths, in words of the tiny vocabulary."""
    rng = np.random.default_rng(0)
    words = ["pay", "the", "gas", "bill", "rent", "a", "flat", "bus", "to", "city"]
    items = [
        {"title": " ".join(rng.choice(words, 1 + n % 7)), "category": " ".join(rng.choice(words, n % 3))}
        for n in range(24)
    ]
    return EncodedPairs.concat([encoder.encode(query, items) for query in ("gas bill", "bus")])


@pytest.fixture(scope="module")
def model(family: GlmFamily, encoder: PairEncoder) -> RelevanceGlm:
    return family.model(segments=encoder.spec.segment_count, dropout=0.0).eval()


def logits(model: RelevanceGlm, pairs: EncodedPairs) -> np.ndarray:
    with torch.no_grad():
        return model(to_tensors(pairs.collate(pad_id=0))).numpy()


def test_a_pair_is_rendered_as_a_question_with_one_masked_answer(
    family: GlmFamily, encoder: PairEncoder
) -> None:
    pair = encoder.encode("gas bill", [{"title": "pay the gas bill"}])
    tokenizer = family.tokenizer
    found = [tokenizer.id_to_token(token) for token in pair.input_ids.tolist()]
    assert found[:1] + found[-3:] == ["[CLS]", "[MASK]", "[PAD]", "<|startofpiece|>"]
    arrays = pair.collate(pad_id=0)
    assert arrays["mask_index"].tolist() == [len(found) - 3]
    assert arrays["sep"].tolist() == [len(found) - 1]
    assert tokenizer.decode(pair.input_ids.tolist()) == "gas bill pay the gas bill relevant?"


def test_the_logit_is_the_log_odds_of_the_label_words(
    family: GlmFamily, model: RelevanceGlm, pairs: EncodedPairs
) -> None:
    batch = to_tensors(pairs.take([0]).collate(pad_id=0))
    length, sep = batch["input_ids"].shape[1], batch["sep"]
    positions = torch.stack([torch.arange(length), torch.zeros(length, dtype=torch.long)])[None].clone()
    positions[0, :, -1] = torch.tensor([int(batch["mask_index"]), 1])
    words = torch.tensor([[family.tokenizer.token_to_id(word) for word in ("yes", "no")]])
    with torch.no_grad():
        states = model.glm.hidden(batch["input_ids"], positions, sep, batch["segment_ids"])
        raw = model.glm.project(states[0, int(sep)])[words[0]]
        assert float(raw[0] - raw[1]) == pytest.approx(float(model(batch)), abs=1e-5)
        model.glm.transformer.segment_embeddings.weight.zero_()
        plain = single_token_cloze(model.glm, batch["input_ids"], positions, sep, words)
        assert float(plain[0, 0] - plain[0, 1]) == pytest.approx(float(model(batch)), abs=1e-5)
    odds = torch.log_softmax(plain, -1)[0]
    assert float(odds[0] - odds[1]) == pytest.approx(float(model(batch)), abs=1e-5)


def test_a_pair_scores_the_same_alone_and_in_any_company(model: RelevanceGlm, pairs: EncodedPairs) -> None:
    together = logits(model, pairs)
    alone = np.concatenate([logits(model, pairs.take([row])) for row in range(len(pairs))])
    assert len(set(pairs.lengths.tolist())) > 3
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(predict(model, pairs, pad_id=0, title="", quiet=True), together, atol=1e-5)
    assert np.std(together) > 1e-3


@pytest.mark.parametrize("pad", [0, 50])
def test_what_fills_the_right_of_a_batch_changes_nothing(
    model: RelevanceGlm, pairs: EncodedPairs, pad: int
) -> None:
    batch = to_tensors(pairs.collate(pad_id=pad))
    for name in ("input_ids", "segment_ids"):
        value = pad if name == "input_ids" else 0
        batch[name] = torch.nn.functional.pad(batch[name], (0, 8), value=value)
    with torch.no_grad():
        np.testing.assert_allclose(model(batch).numpy(), logits(model, pairs), atol=1e-5)


def test_query_item_and_fields_all_count(model: RelevanceGlm, encoder: PairEncoder) -> None:
    item = {"title": "gas bill", "category": "rent a flat"}
    base = logits(model, encoder.encode("gas", [item]))[0]
    for query, other in [
        ("bus", item),
        ("gas", item | {"title": "bus bill"}),
        ("gas", {"title": "rent a flat", "category": "gas bill"}),
    ]:
        assert abs(logits(model, encoder.encode(query, [other]))[0] - base) > 1e-4


def test_an_embedding_is_a_unit_vector_that_company_does_not_change(model: RelevanceGlm) -> None:
    ids = torch.tensor([[2, 30, 31, 32, 0, 0], [2, 40, 41, 42, 43, 0]])
    segments = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 1, 1, 2, 2, 0]])
    with torch.no_grad():
        batch = {"input_ids": ids, "segment_ids": segments, "lengths": torch.tensor([4, 6])}
        together = model.embed(batch)
        alone = model.embed(
            {"input_ids": ids[:1, :4], "segment_ids": segments[:1, :4], "lengths": batch["lengths"][:1]}
        )
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=0.0)


def test_fresh_weights_follow_from_the_seed() -> None:
    tiny = GlmFamily("glm-tiny", label_words=("yes", "no"))
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(tiny.model(segments=5, dropout=0.0).state_dict())
    name = "glm.transformer.layers.0.mlp.dense_h_to_4h.weight"
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    assert not torch.equal(made[0][name], made[2][name])


def test_a_loaded_start_brings_its_weights_and_only_segments_are_new(
    model: RelevanceGlm, family: GlmFamily
) -> None:
    other = family.model(segments=7, dropout=0.0)
    assert torch.equal(other.glm.word_embeddings.weight, model.glm.word_embeddings.weight)
    assert other.new_parameters() == {"glm.transformer.segment_embeddings.weight"}


def test_a_label_word_of_several_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'irrelevantly' is .* tokens"):
        GlmFamily("glm-tiny", label_words=("yes", "irrelevantly"))
