"""A GLM that gives a BERT's states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from training.config import OptimiserConfig
from training.loop import train
from training.models.glm.config import GLMConfig
from training.models.glm.model import GLMModel
from training.models.glm.relevance import RelevanceGlm
from training.models.glm.transplant import transplant
from training.objectives.imitation import Imitation, TextStream

TEXTS = [list(row) for row in np.random.default_rng(0).integers(1, 64, (40, 12))] + [[5, 6, 7]]


def _pair() -> tuple[BertModel, RelevanceGlm]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2}
    bert = BertModel(
        BertConfig(**sizes, num_hidden_layers=2, intermediate_size=128, max_position_embeddings=64)
    )
    glm = GLMModel(GLMConfig(**sizes, num_layers=2, max_sequence_length=40))
    # Fresh norms are all one; trained ones are what makes the layers differ.
    for name, weight in bert.named_parameters():
        if "LayerNorm.weight" in name:
            torch.nn.init.uniform_(weight, 0.3, 1.5)
        elif "word_embeddings" not in name and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.15)
    transplant(bert, glm, TEXTS[:8])
    return bert, RelevanceGlm(glm, yes=1, no=2)


def test_states_come_closer() -> None:
    bert, model = _pair()
    loss = Imitation(bert)
    held_out = TextStream(TEXTS[::4], tokens=120, seed=1).next()
    with torch.no_grad():
        before = float(loss(model, held_out))
    optimiser = OptimiserConfig(tokens=60_000, learning_rate=3e-3, new_weights_factor=1.0)
    train(model, TextStream(TEXTS, tokens=256, seed=0), loss, optimiser, title="imitation")
    with torch.no_grad():
        after = float(loss(model, held_out))
    assert after < before / 2


def test_a_model_that_gives_the_same_states_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The distance is measured between the places the formula names: states of a BERT that copies the GLM's."""
    model = _pair()[1].eval()
    batch = TextStream(TEXTS, tokens=128, seed=0).next()
    stack = model.glm.transformer
    seen: list[torch.Tensor] = []
    for norm in [*(layer.input_layernorm for layer in stack.layers), stack.final_layernorm]:
        norm.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    model.states(batch.inputs)

    class Copy(torch.nn.Module):
        def forward(self, **_: object) -> object:
            return type("Out", (), {"hidden_states": seen[:3]})()

    with torch.no_grad():
        lost = float(Imitation(Copy())(model, batch))
    assert lost == pytest.approx(0, abs=1e-5)


def test_the_stream_goes_on_where_it_was() -> None:
    stream = TextStream(TEXTS, tokens=64, seed=3)
    for _ in range(5):
        stream.next()
    saved = stream.state()
    wanted = [stream.next().inputs["input_ids"].tolist() for _ in range(9)]
    other = TextStream(TEXTS, tokens=64, seed=3)
    other.restore(saved)
    assert [other.next().inputs["input_ids"].tolist() for _ in range(9)] == wanted
