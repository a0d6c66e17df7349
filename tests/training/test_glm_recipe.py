"""The recipe with a GLM at tiny size: pre-training, fine-tuning, evaluation, and a folder to start again from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.data import short_sample
from support.tiny import tiny_checkpoint

from training.config import RunConfig, load_config
from training.models.glm.folder import load_glm
from training.models.glm.vocabulary import load_glm_tokenizer
from training.stages.run import RECIPE, SFT_ALONE, evaluate, fine_tune, open_workshop, pretrain

TINY = """
bundle: tiny
family: glm
start: glm-tiny
dropout: 0.1
sft_alone: false
render: {max_tokens: 64, query_budget: 12, role_budgets: {title: 8, keywords: 8, category: 6, body: 8}}
pretrain:
  optimiser: {tokens: 2500, learning_rate: 1.0e-3, schedule: cosine, final_share: 0.1, betas: [0.9, 0.95]}
  batch_tokens: 1024
  max_document_tokens: 64
  weights: {dke: 1.0, rcd: 1.0, icp: 0.0}
  objectives: {language: 1.0, contrast: 1.0}
  blank: {token: 0.4, segment: 0.3, document: 0.3}
sft: {optimiser: {tokens: 3000, learning_rate: 1.0e-3}, evaluations: 2, dev_pairs: 200, targets: binary}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_sample(tmp_path_factory.mktemp("glm") / "data")


@pytest.fixture(scope="module")
def config(data: Path) -> RunConfig:
    (data.parent / "glm.yaml").write_text(TINY)
    return load_config(data.parent / "glm.yaml")


@pytest.fixture(scope="module")
def finished(data: Path, config: RunConfig) -> Path:
    """A run folder with every stage up to the evaluation."""
    out = data.parent / "out"
    small = tiny_checkpoint(data.parent / "embedder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.models.embedding.minilm_path", lambda: small)
        shop = open_workshop(config, data, out)
        pretrain(shop)
        fine_tune(shop, RECIPE, start=shop.folder)
        trained, _ = evaluate(shop)
    assert trained.model.training is False
    return out


def test_every_stage_leaves_its_result(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(metrics["models"]) == {"cprm", "bm25", "minilm-cosine"}
    assert 0 < metrics["models"]["cprm"]["all"]["auc"]["value"] < 100
    corpora = json.loads((finished / "corpora.json").read_text())
    assert set(corpora) == {"dke", "rcd"}
    assert len(json.loads((finished / f"{RECIPE}.json").read_text())["dev"]) == 2
    assert not list(finished.glob("*.checkpoint"))
    assert {path.name for path in (finished / "tensorboard").iterdir()} == {"pretrain", RECIPE}


def test_the_pretrained_glm_is_a_folder_that_another_run_starts_from(
    finished: Path, config: RunConfig, data: Path, tmp_path: Path
) -> None:
    glm, tokenizer = (
        load_glm(finished / "checkpoint", segment_count=7),
        load_glm_tokenizer(finished / "checkpoint"),
    )
    stage = torch.load(finished / "pretrain.pt", weights_only=True)
    assert all(torch.equal(value, stage[f"glm.{name}"]) for name, value in glm.state_dict().items())
    assert tokenizer.token_to_id("<|startofpiece|>") == 30522
    again = config.model_copy(update={"start": str(finished / "checkpoint")})
    model = open_workshop(again, data, tmp_path / "again").model()
    assert all(torch.equal(value, stage[name]) for name, value in model.state_dict().items())


def test_finished_stages_are_not_repeated(finished: Path, config: RunConfig, data: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.glob("*.pt")}
    shop = open_workshop(config, data, finished)
    pretrain(shop)
    fine_tune(shop, RECIPE, start=shop.folder)
    assert {path.name: path.stat().st_mtime_ns for path in finished.glob("*.pt")} == before
    assert set(before) == {"pretrain.pt", f"{RECIPE}.pt"}
    assert SFT_ALONE not in before


def test_fine_tuned_weights_fit_half_precision(finished: Path) -> None:
    weights = torch.load(finished / f"{RECIPE}.pt", weights_only=True)
    assert all(torch.equal(value.half().float(), value) for value in weights.values())
