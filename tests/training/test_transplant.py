"""Layers of a BERT under a GLM: what it still knows, and what is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel

from training.data.dataset import Dataset
from training.families.glm import fresh_glm
from training.models.checkpoint import load_tokenizer, minilm_path
from training.models.glm.config import GLMConfig
from training.models.glm.model import GLMModel
from training.models.glm.transplant import transplant
from training.models.glm.vocabulary import bert_tokenizer


def _texts(dataset: Dataset, count: int) -> list[list[int]]:
    tokenizer = load_tokenizer(minilm_path())
    return [tokenizer.encode(dataset.item_text(item_id)).ids[:60] for item_id in list(dataset.items)[:count]]


def _means(states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    weights = real[..., None].float()
    return torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


@torch.no_grad()
def test_texts_that_bert_finds_alike_are_alike_to_the_glm(sample: Dataset) -> None:
    bert = AutoModel.from_pretrained(minilm_path(), dtype=torch.float32).eval()
    rows = _texts(sample, 100)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    real = torch.arange(ids.shape[1]) < lengths[:, None]
    theirs = _means(bert(input_ids=ids, attention_mask=real.long()).last_hidden_state, real)

    def agreement(glm: GLMModel) -> float:
        places = torch.arange(ids.shape[1])
        positions = torch.stack([places, torch.zeros_like(places)]).expand(len(ids), 2, -1)
        ours = _means(glm.hidden(ids, positions, lengths), real)
        upper = torch.triu_indices(len(ids), len(ids), 1)
        both = torch.stack([(m @ m.T)[upper[0], upper[1]] for m in (theirs, ours)])
        return float(torch.corrcoef(both)[0, 1])

    torch.manual_seed(0)
    tokenizer = bert_tokenizer(load_tokenizer(minilm_path()))
    glm = fresh_glm("glm-small", tokenizer, segments=0, dropout=0.0).eval()
    before = agreement(glm)
    transplant(bert, glm, rows[:32])
    assert agreement(glm) > before + 0.1


def test_unequal_sizes_are_refused_by_name() -> None:
    bert = BertModel(BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2))
    glm = GLMModel(GLMConfig(num_layers=3, vocab_size=64, hidden_size=32, num_attention_heads=2))
    with pytest.raises(ValueError, match="layers: BERT has 2, GLM 3"):
        transplant(bert, glm, [[1, 2]])
