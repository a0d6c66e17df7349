"""A BERT of two layers with random weights, and a real bundle exported from it in a second."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from model_repo.bundle import Bundle
from model_repo.calibration import Calibration
from model_repo.encoding import PairEncoder
from model_repo.repository import Repository
from support.data import SAMPLE
from training.config import RenderConfig
from training.data.dataset import Dataset, load_dataset
from training.export.exporter import Trained, export_bundle
from training.families.encoder import EncoderFamily
from training.models.checkpoint import minilm_path


def tiny_checkpoint(folder: Path) -> Path:
    """A checkpoint folder with MiniLM's tokenizer."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    shutil.copy(minilm_path() / "tokenizer.json", folder)
    return folder


def tiny_trained(folder: Path, dataset: Dataset, *, seed: int = 0) -> Trained:
    """A model with random weights everywhere, so that every term of the logit counts."""
    start = tiny_checkpoint(folder)
    family = EncoderFamily(str(start))
    spec = family.spec(dataset, RenderConfig(max_tokens=96))
    torch.manual_seed(seed)
    model = family.model(segments=spec.segment_count, dropout=0.0)
    torch.nn.init.normal_(model.out.weight, std=0.5)
    model.round_to_half()
    calibration = Calibration(
        method="platt",
        slope=0.8,
        intercept=0.1,
        decision_threshold=0.5,
        grade_names=dataset.card.labels.grade_names,
        grade_thresholds=tuple(np.linspace(0.2, 0.8, len(dataset.card.labels.grade_names) - 1).tolist()),
    )
    return Trained(model, PairEncoder(spec, family.tokenizer), family.tokenizer, calibration)


def tiny_bundle(scratch: Path, repository: Path, *, name: str = "tiny", seed: int = 0) -> Bundle:
    """Export the next version of `name` into `repository` and promote it."""
    dataset = load_dataset(SAMPLE)
    trained = tiny_trained(scratch / f"checkpoint-{seed}", dataset, seed=seed)
    provenance = {
        "command": "tests",
        "seed": seed,
        "start_weights": "random",
        "dataset": "miniapps",
        "dataset_licence": "CC0-1.0",
        "config": {},
    }
    return export_bundle(
        trained, dataset, Repository(repository), name, provenance=provenance, metrics={}, promote=True
    )
