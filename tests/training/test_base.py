"""A base GLM from a catalogue: resumable, loadable, with a vocabulary of its own where asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.data import short_sample

from training.cli import main
from training.config import ConfigError
from training.families.glm import GlmFamily
from training.models.checkpoint import load_tokenizer, minilm_path
from training.models.glm.folder import load_glm
from training.models.glm.vocabulary import load_glm_tokenizer
from training.stages import base
from training.stages.base import load_base_config

CONFIG = """
size: glm-tiny
pretrain:
  optimiser: {tokens: 12000, learning_rate: 1.0e-3}
  batch_tokens: 512
  max_document_tokens: 48
  objectives: {language: 1, contrast: 1, joint: 1}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_sample(tmp_path_factory.mktemp("base") / "data")


def _base(folder: Path, data: Path, config: str = CONFIG) -> int:
    (folder / "base.yaml").write_text(config)
    arguments = ["base", "--config", str(folder / "base.yaml"), "--data", str(data), "--data", str(data)]
    return main([*arguments, "--out", str(folder / "glm")])


def test_the_folder_loads_and_a_second_start_trains_nothing(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _base(tmp_path, data) == 0
    model, tokenizer = load_glm(tmp_path / "glm", segment_count=5), load_glm_tokenizer(tmp_path / "glm")
    assert model.config.hidden_size == 32
    assert tokenizer.token_to_id("<|startofpiece|>") == 30522
    curve = json.loads((tmp_path / "glm" / "run" / "base.json").read_text())["curve"]
    assert curve[-1]["tokens"] >= 12000
    assert curve[-1]["loss"] < curve[0]["loss"]
    monkeypatch.setattr(base, "train", None)
    assert _base(tmp_path, data) == 0


def test_a_catalogue_vocabulary_holds_the_label_words_and_is_what_the_model_reads(
    tmp_path: Path, data: Path
) -> None:
    assert _base(tmp_path, data, CONFIG + "vocabulary: catalogue\nvocabulary_size: 600\n") == 0
    model, tokenizer = load_glm(tmp_path / "glm"), load_glm_tokenizer(tmp_path / "glm")
    assert tokenizer.get_vocab_size() <= model.config.vocab_size < 1000
    assert len(tokenizer.encode("yes", add_special_tokens=False).ids) == 1


def test_documents_longer_than_the_positions_are_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _base(tmp_path, data, CONFIG.replace("tokens: 48", "tokens: 258")) == 1
    said = "pretrain.max_document_tokens: 258 tokens, but glm-tiny has 257 positions"
    assert said in capsys.readouterr().err


def test_a_catalogue_of_many_fields_is_refused_with_a_remedy_that_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"field-{number}" for number in range(40)]
    card = {
        "name": "wide",
        "language": "en",
        "licence": "CC0-1.0",
        "item_fields": [{"name": name, "role": "attribute"} for name in names],
        "labels": {"scale": [0, 1], "relevant_from": 1},
    }
    wide = tmp_path / "wide"
    wide.mkdir()
    (wide / "dataset.json").write_text(json.dumps(card))
    items = [{"item_id": str(n), "fields": dict.fromkeys(names, f"gas bill {n}")} for n in range(5)]
    (wide / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    short = CONFIG.replace("12000", "500")
    assert _base(tmp_path, wide, short) == 1
    assert "render: budgets and template need" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "glm")
    assert _base(tmp_path, wide, short + "render: {role_budgets: {attribute: 1}}\n") == 0


def test_fresh_words_start_from_minilm_by_name() -> None:
    family = GlmFamily("glm-small", label_words=("yes", "no"))
    model = family.model(segments=4, dropout=0.0)
    words = load_file(minilm_path() / "model.safetensors")["embeddings.word_embeddings.weight"]
    here = family.tokenizer.token_to_id("electricity")
    there = load_tokenizer(minilm_path()).token_to_id("electricity")
    assert torch.equal(model.glm.word_embeddings.weight[here].detach(), words[there])


def test_a_wrong_base_config_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("size: glm-9b\npretrain: {optimiser: {tokens: 1}}")
    with pytest.raises(ConfigError, match=r"base.yaml: size"):
        load_base_config(tmp_path / "base.yaml")


def test_the_shipped_base_config_is_valid() -> None:
    path = Path(__file__).parents[2] / "training" / "configs" / "base" / "glm-small.yaml"
    assert load_base_config(path).size == "glm-small"


IMITATION = """
size: glm-small
layers: minilm
imitate: {tokens: 600}
pretrain: {optimiser: {tokens: 400}, batch_tokens: 256, max_document_tokens: 48}
"""


def test_imitation_is_a_stage_that_is_not_repeated(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = base.train

    def killed(*arguments: object, title: str, **rest: object) -> object:
        if title.startswith("base"):
            raise KeyboardInterrupt
        return real(*arguments, title=title, **rest)

    monkeypatch.setattr(base, "train", killed)
    assert _base(tmp_path, data, IMITATION) == 130
    monkeypatch.setattr(base, "train", real)
    curve = json.loads((tmp_path / "glm" / "run" / "imitation.json").read_text())["curve"]
    assert curve[-1]["tokens"] >= 600
    monkeypatch.setattr(base, "Imitation", lambda bert: pytest.fail("trained twice"))
    assert _base(tmp_path, data, IMITATION) == 0


def test_imitation_needs_layers_to_start_from(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _base(tmp_path, data, IMITATION.replace("layers: minilm", "layers: fresh")) == 1
    assert "imitate needs layers: minilm" in capsys.readouterr().err
