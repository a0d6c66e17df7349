"""GLM checkpoint folders: what is written is read back bit by bit; what does not fit is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.glm import tiny_glm, tiny_glm_folder, tiny_tokenizer

from training.models.glm.config import GLMConfig, named_config
from training.models.glm.folder import CheckpointError, load_glm
from training.models.glm.model import GLMModel
from training.models.glm.vocabulary import load_glm_tokenizer

QKV = "transformer.layers.1.attention.query_key_value.weight"
SEGMENTS = "transformer.segment_embeddings.weight"


def authors_folder(folder: Path, **weights: torch.Tensor | None) -> Path:
    """A folder as the authors publish it: pytorch_model.bin. `weights` are added, or left out where None."""
    folder.mkdir(exist_ok=True)
    model = tiny_glm()
    state = dict(model.state_dict())
    for name, value in weights.items():
        state.pop(name, None)
        if value is not None:
            state[name] = value
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(model.config.to_json_string())
    return folder


def same_weights(first: GLMModel, second: GLMModel) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_saved_folder_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    folder = tiny_glm_folder(tmp_path / "glm", segment_count=5)
    model, tokenizer = load_glm(folder, segment_count=5), load_glm_tokenizer(folder)
    assert (tmp_path / "glm" / "model.safetensors").is_file()
    assert same_weights(model, tiny_glm(segment_count=5))
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()


def test_a_pytorch_folder_is_read_bit_by_bit_and_widened_to_fp32(tmp_path: Path) -> None:
    folder = authors_folder(tmp_path / "glm")
    assert same_weights(load_glm(folder), tiny_glm())
    halves = {name: value.half() for name, value in tiny_glm().state_dict().items()}
    torch.save(halves, folder / "pytorch_model.bin")
    loaded = load_glm(folder)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert all(torch.equal(value, halves[name].float()) for name, value in loaded.state_dict().items())


def test_a_checkpoint_without_segments_gains_a_table_of_zeros_and_keeps_its_logits(tmp_path: Path) -> None:
    folder = authors_folder(tmp_path / "glm")
    ours, plain = load_glm(folder, segment_count=6).eval(), load_glm(folder).eval()
    assert torch.equal(ours.state_dict()[SEGMENTS], torch.zeros(6, 16))
    ids = torch.arange(24).reshape(2, 12)
    places = torch.stack([torch.arange(12), torch.zeros(12, dtype=torch.long)]).expand(2, -1, -1)
    sep, segments = torch.tensor([12, 7]), torch.arange(12).expand(2, -1) % 6
    with torch.no_grad():
        assert torch.equal(ours(ids, places, sep, segments), plain(ids, places, sep))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {QKV: torch.zeros(48, 8)},
            rf"{QKV} has shape \(48, 8\), the config asks for \(48, 16\)",
        ),
        ({QKV: None}, f"{QKV} is missing"),
        ({"mixins.extra.weight": torch.zeros(2)}, "mixins.extra.weight is no weight of this model"),
    ],
    ids=["shape", "missing", "unknown"],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, weights: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_glm(authors_folder(tmp_path / "glm", **weights))


def test_a_config_of_another_model_is_refused_naming_the_weights(tmp_path: Path) -> None:
    folder = authors_folder(tmp_path / "glm")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": 3}))
    with pytest.raises(CheckpointError, match=r"layers\.2\..* is missing.*config\.json that belongs"):
        load_glm(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("relative_encoding", True),
        ("block_position_encoding", False),
        ("spell_length", 4),
        ("num_attention_heads", 3),
        ("gelu", "relu"),
    ],
)
def test_what_this_model_does_not_compute_is_refused_by_field(
    tmp_path: Path, field: str, value: object
) -> None:
    folder = authors_folder(tmp_path / "glm")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(CheckpointError, match=field):
        load_glm(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: not a GLM checkpoint"):
        load_glm(tmp_path / "nowhere")


def test_an_unknown_size_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'glm-3b'.*glm-tiny, glm-small, glm-2b"):
        named_config("glm-3b")


def test_fresh_weights_have_the_spread_of_the_paper() -> None:
    torch.manual_seed(0)
    model = GLMModel(
        GLMConfig(num_layers=8, hidden_size=128, num_attention_heads=2, vocab_size=512, segment_count=3)
    )
    state = model.state_dict()
    assert float(state["word_embeddings.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["transformer.layers.7.mlp.dense_h_to_4h.weight"].std()) == pytest.approx(
        0.02, rel=0.05
    )
    for name in ("attention.dense", "mlp.dense_4h_to_h"):
        found = float(state[f"transformer.layers.0.{name}.weight"].std())
        assert found == pytest.approx(0.02 / (2 * 8) ** 0.5, rel=0.05)
    assert float(state[SEGMENTS].abs().max()) == 0.0
    assert float(state["transformer.layers.3.attention.query_key_value.bias"].abs().max()) == 0.0
