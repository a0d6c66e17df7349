"""GLM tokenizers: the special tokens have the ids of the published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.glm import tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

from training.models.checkpoint import load_tokenizer, minilm_path
from training.models.glm.vocabulary import (
    EOP,
    SOP,
    GLMSpecials,
    bert_tokenizer,
    glm_specials,
    load_glm_tokenizer,
    padded_vocabulary,
)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def byte_pairs(folder: Path, size: int = 50256) -> Path:
    """`vocab.json` and `merges.txt` in GPT-2's form and size: bytes, two merges, and filling words."""
    folder.mkdir()
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ga", "gas"]
    symbols += [f"filling{number}" for number in range(size - len(symbols))]
    vocabulary = {symbol: number for number, symbol in enumerate([*symbols, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\ng a\nga s\n")
    return folder


def test_bert_ids_are_those_of_glm_large() -> None:
    tokenizer = bert_tokenizer(load_tokenizer(minilm_path()))
    assert glm_specials(tokenizer) == GLMSpecials(
        cls=101, mask=103, eos=0, sop=30522, eop=30523, segment_mask=103, document_mask=103
    )
    assert padded_vocabulary(tokenizer) == 30592


def test_gpt2_ids_are_those_of_glm_2b(tmp_path: Path) -> None:
    tokenizer = load_glm_tokenizer(byte_pairs(tmp_path / "gpt2"))
    assert glm_specials(tokenizer) == GLMSpecials(
        cls=50259, mask=50260, eos=50256, sop=50257, eop=50258, segment_mask=50264, document_mask=50263
    )
    assert tokenizer.get_vocab_size() == 50266
    assert padded_vocabulary(tokenizer) == 50304


def test_gpt2_merges_and_gives_any_text_back(tmp_path: Path) -> None:
    tokenizer = load_glm_tokenizer(byte_pairs(tmp_path / "gpt2", size=300))
    assert ids(tokenizer, "gas") == [tokenizer.token_to_id("gas")]
    assert tokenizer.decode(ids(tokenizer, "gas été 🙂")) == "gas été 🙂"


def test_a_vocab_txt_reads_as_its_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes((minilm_path() / "vocab.txt").read_bytes())
    tokenizer = load_glm_tokenizer(tmp_path)
    text = "Paying the ÉLECTRICITY bill, 24/7!"
    assert ids(tokenizer, text) == ids(bert_tokenizer(load_tokenizer(minilm_path())), text)
    assert glm_specials(tokenizer).sop == 30522


def test_a_trained_vocabulary_has_every_special_token_and_the_label_words_as_one() -> None:
    tokenizer = tiny_tokenizer()
    special = glm_specials(tokenizer)
    assert len({special.cls, special.mask, special.eos, special.sop, special.eop}) == 5
    assert len({special.mask, special.segment_mask, special.document_mask}) == 3
    assert [len(ids(tokenizer, word)) for word in ("yes", "no")] == [1, 1]
    assert len(ids(tokenizer, "pay the gas bill")) < len("paythegasbill")


def test_the_same_texts_train_the_same_vocabulary() -> None:
    assert tiny_tokenizer().get_vocab() == tiny_tokenizer().get_vocab()


def test_pieces_typed_by_a_user_are_ordinary_text() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.token_to_id("##s") not in ids(tokenizer, "##s")


def test_saving_and_reading_adds_nothing_twice(tmp_path: Path) -> None:
    first = bert_tokenizer(load_tokenizer(minilm_path()))
    first.save(str(tmp_path / "tokenizer.json"))
    assert load_glm_tokenizer(tmp_path).get_vocab() == first.get_vocab()


def test_names_of_the_chinese_checkpoints_are_known() -> None:
    names = ["<unk>", "<|endoftext|>", "[CLS]", "[MASK]", "<sop>", "<eop>", "[gMASK]", "[sMASK]"]
    tokenizer = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, "<unk>"))
    assert glm_specials(tokenizer) == GLMSpecials(
        cls=2, mask=3, eos=1, sop=4, eop=5, segment_mask=7, document_mask=6
    )


def test_a_vocabulary_without_special_tokens_is_refused_by_token() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[CLS]": 0, "[MASK]": 1, "[PAD]": 2, EOP: 3}, "[PAD]"))
    with pytest.raises(ValueError, match=r"startofpiece.*not a GLM vocabulary"):
        glm_specials(tokenizer)
    assert SOP not in tokenizer.get_vocab()


def test_a_folder_without_tokenizer_names_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json.*merges\.txt.*vocab\.txt"):
        load_glm_tokenizer(tmp_path)
