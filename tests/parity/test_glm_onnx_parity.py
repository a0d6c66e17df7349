"""A GLM's graph tells what the PyTorch cloze tells, in every form the graph has."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from support.glm import tiny_glm, tiny_glm_folder
from support.graphs import alone, node_kinds, opened, written

from model_repo.encoding import EncodedPairs, PairEncoder
from training.config import RenderConfig
from training.data.dataset import Dataset
from training.evaluation.predict import predict
from training.export.glm_graph import glm_drawing, glm_folder_drawing, glm_shapes, random_glm_drawing
from training.export.graph import GraphOptions
from training.export.int8 import derive_int8
from training.export.writer import GRAPH_FILES, write_graphs
from training.families.glm import GlmFamily
from training.models.glm.config import named_config
from training.models.glm.model import GLMModel
from training.models.glm.relevance import RelevanceGlm
from training.rendering import PairSource

OPTIONS = [
    GraphOptions(fused_attention=fused, unpad=unpad, last_q=last_q)
    for fused, unpad, last_q in product([False, True], repeat=3)
] + [GraphOptions(pair_by_pair=False)]
HALF = [
    GraphOptions(pair_by_pair=False, arithmetic="fp16"),
    GraphOptions(pair_by_pair=False, arithmetic="fp16", wide_residual=True),
    GraphOptions(pair_by_pair=False, arithmetic="fp16", unpad=False, last_q=False),
]


def ragged(lengths: list[int], *, vocabulary: int = 120, segments: int = 4) -> EncodedPairs:
    """Random pairs of these lengths, sop last and [MASK] somewhere before it."""
    rng = np.random.default_rng(0)
    total, spans = sum(lengths), np.array(lengths)
    return EncodedPairs(
        rng.integers(0, vocabulary, total, dtype=np.int32),
        rng.integers(0, segments, total, dtype=np.uint8),
        np.concatenate([[0], np.cumsum(spans)]),
        np.zeros(len(spans), dtype=np.uint32),
        mask_index=rng.integers(0, spans - 1),
        sep=spans - 1,
    )


PAIRS = ragged([9, 2, 64, 17, 3, 40])


@pytest.fixture(scope="module")
def tiny() -> RelevanceGlm:
    model = RelevanceGlm(tiny_glm(segment_count=4), yes=7, no=11)
    model.round_to_half()
    return model.eval()


def torch_logits(model: RelevanceGlm, pairs: EncodedPairs) -> np.ndarray:
    return predict(model, pairs, pad_id=0, title="", quiet=True)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_form_of_the_graph_gives_the_same_scores(
    options: GraphOptions, tiny: RelevanceGlm, tmp_path: Path
) -> None:
    drawing = glm_drawing(tiny)
    scorer = opened(written(drawing, tmp_path / "g", options), drawing)
    wanted = torch_logits(tiny, PAIRS)
    assert np.std(wanted) > 0.1
    np.testing.assert_allclose(scorer.logits(PAIRS), wanted, atol=1e-5)
    np.testing.assert_allclose(alone(scorer, PAIRS), wanted, atol=1e-5)


@pytest.mark.parametrize("options", HALF, ids=str)
def test_half_precision_stays_within_its_gate(
    options: GraphOptions, tiny: RelevanceGlm, tmp_path: Path
) -> None:
    drawing = glm_drawing(tiny)
    scorer = opened(written(drawing, tmp_path / "g", options), drawing)
    np.testing.assert_allclose(scorer.logits(PAIRS), torch_logits(tiny, PAIRS), atol=2e-3)


def test_int8_is_near_and_keeps_no_company(tiny: RelevanceGlm, tmp_path: Path) -> None:
    drawing = glm_drawing(tiny)
    derive_int8(written(drawing, tmp_path / "g"), tmp_path / "int8.onnx")
    scorer = opened(tmp_path / "int8.onnx", drawing)
    found = scorer.logits(PAIRS)
    assert 0 < np.abs(found - torch_logits(tiny, PAIRS)).max() < 0.1
    np.testing.assert_allclose(alone(scorer, PAIRS), found, atol=1e-5)


@pytest.mark.parametrize("size", ["glm-tiny", "glm-small"])
def test_named_sizes_agree_to_1e_4(size: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = named_config(size, vocab_size=256, segment_count=4)
    model = RelevanceGlm(GLMModel(config), yes=5, no=9)
    with torch.no_grad():  # as far from the start as training takes it, so that every term counts
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    model.round_to_half()
    drawing = glm_drawing(model)
    scorer = opened(written(drawing, tmp_path / "g"), drawing)
    wanted = torch_logits(model, PAIRS)
    assert np.std(wanted) > 0.01
    np.testing.assert_allclose(scorer.logits(PAIRS), wanted, atol=1e-4)


@pytest.mark.parametrize("changes", [{"gelu": "erf"}, {"segment_count": 0}], ids=str)
def test_variants_of_the_model_are_drawn_as_they_are(changes: dict[str, object], tmp_path: Path) -> None:
    model = RelevanceGlm(tiny_glm(**({"segment_count": 4} | changes)), yes=7, no=11)
    model.round_to_half()
    drawing = glm_drawing(model)
    scorer = opened(written(drawing, tmp_path / "g"), drawing)
    np.testing.assert_allclose(scorer.logits(PAIRS), torch_logits(model, PAIRS), atol=1e-5)


def test_real_pairs_agree_down_to_one_token_each(sample: Dataset, tmp_path: Path) -> None:
    family = GlmFamily(str(tiny_glm_folder(tmp_path / "start", segment_count=0)), label_words=("yes", "no"))
    encoder = PairEncoder(family.spec(sample, RenderConfig(max_tokens=120)), family.tokenizer)
    model = family.model(segments=encoder.spec.segment_count, dropout=0.0)
    model.round_to_half()
    pairs = PairSource(sample, encoder).encode(sample.labels("dev")[:32])
    pairs = EncodedPairs.concat([pairs, encoder.encode("a", [{"title": "b"}, {}])])
    drawing = glm_drawing(model)
    scorer = opened(written(drawing, tmp_path / "g"), drawing, pad_id=encoder.spec.special_ids.pad)
    np.testing.assert_allclose(scorer.logits(pairs), torch_logits(model, pairs), atol=1e-4)
    np.testing.assert_allclose(alone(scorer, pairs), scorer.logits(pairs), atol=1e-5)


def test_a_folder_is_written_without_building_the_model(tmp_path: Path) -> None:
    folder = tiny_glm_folder(tmp_path / "start", segment_count=4)
    drawing = glm_folder_drawing(folder, yes=7, no=11)
    scorer = opened(written(drawing, tmp_path / "g"), drawing)
    model = RelevanceGlm(tiny_glm(segment_count=4), yes=7, no=11)
    model.round_to_half()
    np.testing.assert_allclose(scorer.logits(PAIRS), torch_logits(model, PAIRS), atol=1e-5)


def expected_kinds(layers: int) -> dict[str, int]:
    """Nodes that cost, of an fp16 graph: the last layer has no rows of part A, and no Cast widens a matrix."""
    return {
        "Gemm": 6 * layers,
        "Attention": 2 * layers - 1,
        "Gelu": layers,
        "LayerNormalization": 2 * layers + 1,
        "ScatterND": layers - 1,
        "Compress": 1,
        "Cast": 4,  # which row is sop, the read row, gain and bias of the last LayerNorm
        "MatMul": 1,
        "Softmax": 0,
        "Concat": 0,
    }


@pytest.mark.parametrize("layers", [2, 6, 36])
def test_the_structure_grows_with_layers_alone(layers: int, tmp_path: Path) -> None:
    config = named_config("glm-2b", num_layers=layers, hidden_size=64, vocab_size=128, segment_count=4)
    path = written(
        random_glm_drawing(config), tmp_path / "g", GraphOptions(pair_by_pair=False, arithmetic="fp16")
    )
    kinds = node_kinds(path)
    assert {kind: kinds[kind] for kind in expected_kinds(layers)} == expected_kinds(layers)


def test_both_precisions_share_one_file(tiny: RelevanceGlm, tmp_path: Path) -> None:
    drawing = glm_drawing(tiny)
    write_graphs(drawing, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*GRAPH_FILES.values(), "weights.bin"])
    (tmp_path / "one").mkdir()
    write_graphs(drawing, tmp_path / "one", ["fp32"])
    assert (tmp_path / "weights.bin").read_bytes() == (tmp_path / "one" / "weights.bin").read_bytes()
    assert sum(path.stat().st_size for path in tmp_path.glob("*.onnx")) < 100_000


def test_shapes_are_those_of_the_model() -> None:
    model = tiny_glm(segment_count=4)
    assert glm_shapes(model.config) == {name: tuple(v.shape) for name, v in model.state_dict().items()}
