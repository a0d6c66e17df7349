"""The graph scores what the PyTorch model scored: alone, in company, at every length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.graphs import alone, node_kinds, opened, written

from model_repo.bundle import Bundle
from model_repo.encoding import EncodedPairs
from model_repo.repository import Repository
from model_repo.runtime import OnnxScorer, score_all
from training.data.dataset import Dataset
from training.errors import FitError
from training.evaluation.predict import predict
from training.export.bert_graph import bert_drawing
from training.export.exporter import ParityError, Trained, export_bundle
from training.export.graph import Drawing, GraphOptions, UnsupportedBackboneError
from training.export.int8 import derive_int8
from training.export.writer import drawing_of
from training.models.encoder import RelevanceEncoder
from training.rendering import PairSource

BUNDLES = Path(__file__).parents[2] / "model_repo" / "bundles"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> Trained:
    from support.tiny import tiny_trained

    return tiny_trained(tmp_path_factory.mktemp("checkpoint"), sample)


def test_graph_and_model_agree_on_real_pairs(trained: Trained, tiny: Bundle, sample: Dataset) -> None:
    pairs = PairSource(sample, trained.encoder).encode(sample.labels("dev")[:200])
    ours = predict(trained.model, pairs, pad_id=0, title="", quiet=True)
    np.testing.assert_allclose(score_all(OnnxScorer(tiny, threads=1), pairs), ours, atol=1e-5)
    assert np.std(ours) > 0.01


@pytest.mark.parametrize("unpad", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("fused", [False, True], ids=["parts", "fused"])
def test_every_form_of_the_graph_gives_the_same_scores(
    fused: bool, unpad: bool, trained: Trained, sample: Dataset, tmp_path: Path
) -> None:
    drawing = bert_drawing(trained.model)
    options = GraphOptions(fused_attention=fused, unpad=unpad)
    scorer = opened(written(drawing, tmp_path / "g", options), drawing)
    pairs = EncodedPairs.concat(
        [
            PairSource(sample, trained.encoder).encode(sample.labels("dev")[:16]),
            trained.encoder.encode("a", [{"title": "b"}, {}]),
        ]
    )
    wanted = predict(trained.model, pairs, pad_id=0, title="", quiet=True)
    np.testing.assert_allclose(scorer.logits(pairs), wanted, atol=1e-5)
    np.testing.assert_allclose(alone(scorer, pairs), wanted, atol=1e-5)


@pytest.mark.parametrize("wide", [False, True], ids=["narrow residual", "wide residual"])
def test_half_precision_stays_within_its_gate(
    wide: bool, trained: Trained, sample: Dataset, tmp_path: Path
) -> None:
    drawing = bert_drawing(trained.model)
    options = GraphOptions(pair_by_pair=False, arithmetic="fp16", wide_residual=wide)
    scorer = opened(written(drawing, tmp_path / "g", options), drawing)
    pairs = PairSource(sample, trained.encoder).encode(sample.labels("dev")[:32])
    wanted = predict(trained.model, pairs, pad_id=0, title="", quiet=True)
    np.testing.assert_allclose(scorer.logits(pairs), wanted, atol=5e-3)


def test_nothing_is_computed_twice_or_for_padding(trained: Trained, tmp_path: Path) -> None:
    kinds = node_kinds(
        written(
            bert_drawing(trained.model), tmp_path / "g", GraphOptions(pair_by_pair=False, arithmetic="fp16")
        )
    )
    layers = 2
    wanted = {
        "Gemm": 6 * layers + 2,
        "Attention": layers,
        "Gelu": layers,
        "LayerNormalization": 2 * layers + 1,
    }
    wanted |= {"Compress": 1, "CumSum": 1, "Softmax": 0, "Concat": 0}
    assert {kind: kinds[kind] for kind in wanted} == wanted


def test_int8_is_near_and_keeps_no_company(trained: Trained, sample: Dataset, tmp_path: Path) -> None:
    drawing = bert_drawing(trained.model)
    source = written(drawing, tmp_path / "g")
    derive_int8(source, tmp_path / "int8.onnx")
    scorer = opened(tmp_path / "int8.onnx", drawing)
    pairs = PairSource(sample, trained.encoder).encode(sample.labels("dev")[:32])
    exact, found = opened(source, drawing).logits(pairs), scorer.logits(pairs)
    assert np.corrcoef(exact, found)[0, 1] > 0.99
    assert 0 < np.abs(exact - found).max() < 0.2
    np.testing.assert_allclose(alone(scorer, pairs), found, atol=1e-5)


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedBackboneError, match="Linear: the exporter knows"):
        drawing_of(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tiny", "miniapps"])
def test_a_pair_scores_the_same_alone_and_in_any_company(name: str, tiny: Bundle, sample: Dataset) -> None:
    bundle = tiny if name == "tiny" else Bundle.load(Repository(BUNDLES).resolve(name))
    scorer = OnnxScorer(bundle, threads=1)
    pairs = PairSource(sample, bundle.encoder).encode(sample.labels("dev")[:24])
    together = scorer.logits(pairs)
    np.testing.assert_allclose(together, alone(scorer, pairs), atol=1e-5)


def test_a_drifting_graph_is_not_exported(
    trained: Trained, sample: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drift(model: RelevanceEncoder) -> Drawing:
        drawing = bert_drawing(model)
        off = {"bias": np.float16(0.1)}
        return replace(drawing, weights=lambda name: drawing.weights(name) + off.get(name, np.float16(0)))

    monkeypatch.setattr("training.export.exporter.drawing_of", drift)
    provenance = {
        "command": "t", "seed": 0, "start_weights": "t", "dataset": "t", "dataset_licence": "t", "config": {},
    }  # fmt: skip
    with pytest.raises(ParityError, match="graph and PyTorch differ"):
        export_bundle(
            trained, sample, Repository(tmp_path), "tiny", provenance=provenance, metrics={}, promote=True
        )
    assert Repository(tmp_path).names() == []


def test_other_architectures_are_refused_by_name(trained: Trained) -> None:
    config = trained.model.masked_lm.config
    config.hidden_act = "gelu_new"
    try:
        with pytest.raises(UnsupportedBackboneError, match="BERT graphs only"):
            bert_drawing(trained.model)
    finally:
        config.hidden_act = "gelu"


def test_weights_beyond_half_precision_are_refused_by_name(trained: Trained) -> None:
    kept = trained.model.dense.bias.data.clone()
    trained.model.dense.bias.data[0] = 1e6
    with pytest.raises(FitError, match=r"dense\.bias"):
        trained.model.round_to_half()
    trained.model.dense.bias.data.copy_(kept)
