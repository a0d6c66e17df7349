"""Our GLM computes what the authors' code computes: logits, heads, loss and gradients."""

from __future__ import annotations

import pytest
import torch
from support.glm import golden_model, golden_tensors

from training.models.glm.heads import GLMForSequenceClassification, multi_token_cloze, single_token_cloze
from training.models.glm.model import GLMModel
from training.models.glm.relevance import RelevanceGlm

CASES = ["sepvec0", "sepvec1", "sepvec2", "sepscalar", "bidirectional", "causal", "mask4d"]
FORWARD = golden_tensors("forward")
HEADS = golden_tensors("heads")
LOSS = golden_tensors("loss")
SHARED = ("input_ids", "position_ids", "attention_mask")


def assert_close(found: torch.Tensor, wanted: torch.Tensor, bar: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, atol=bar, rtol=0.0)


def test_every_recorded_case_is_compared() -> None:
    assert {key.split(".")[0] for key in FORWARD} == set(CASES)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_agree_to_1e_5(case: str) -> None:
    inputs = {name: FORWARD[f"{case}.{name}"] for name in SHARED}
    assert_close(golden_model()(**inputs), FORWARD[f"{case}.logits"])


@torch.no_grad()
@pytest.mark.parametrize("changes", [{"gelu": "erf"}, {"layernorm_epsilon": 1e-12}], ids=str)
def test_the_bar_tells_a_wrong_variant(changes: dict[str, object]) -> None:
    logits = golden_model(**changes)(*(FORWARD[f"sepvec0.{name}"] for name in SHARED))
    assert float((logits - FORWARD["sepvec0.logits"]).abs().max()) > 1e-4


@torch.no_grad()
def test_an_all_zero_segment_table_changes_nothing() -> None:
    plain, ours = golden_model(), golden_model()
    ours.transformer.segment_embeddings = torch.nn.Embedding(5, 64)
    torch.nn.init.zeros_(ours.transformer.segment_embeddings.weight)
    inputs = [FORWARD[f"sepvec0.{name}"] for name in SHARED]
    segments = torch.arange(20).expand(3, -1) % 5
    assert torch.equal(ours(*inputs, segments), plain(*inputs))


@torch.no_grad()
@pytest.mark.parametrize("pool", ["cls", "start", "pad"])
@pytest.mark.parametrize("labels", [1, 2])
def test_the_classification_head_agrees(labels: int, pool: str) -> None:
    prefix = f"seqcls.n{labels}"
    head = GLMForSequenceClassification(golden_model(pool_token=pool), labels=labels).eval()
    for name in ("pool_layer.weight", "pool_layer.bias", "multichoice_head.weight", "multichoice_head.bias"):
        head.get_parameter(name).copy_(HEADS[f"{prefix}.{name}"])
    assert_close(head(*(HEADS[name] for name in SHARED)), HEADS[f"{prefix}.{pool}.logits"])


@torch.no_grad()
def test_the_one_token_cloze_agrees() -> None:
    found = single_token_cloze(
        golden_model(), *(HEADS[name] for name in SHARED), HEADS["singlecloze.target_ids"]
    )
    assert_close(found, HEADS["singlecloze.logits"])


@torch.no_grad()
def test_the_cloze_of_several_tokens_agrees() -> None:
    names = (*SHARED, "target_ids", "logit_mask")
    found = multi_token_cloze(golden_model(), *(HEADS[f"multicloze.{name}"] for name in names))
    # A sum of log probabilities of up to 60: a relative bar.
    torch.testing.assert_close(found, HEADS["multicloze.logits"], rtol=1e-5, atol=1e-5)


def training_loss(model: GLMModel) -> torch.Tensor:
    batch = {
        "input_ids": LOSS["text"],
        "position_ids": LOSS["position_id"],
        "sep": LOSS["attention_mask"],
        "segment_ids": torch.zeros_like(LOSS["text"]),
        "targets": LOSS["target"],
        "loss_mask": LOSS["loss_mask"],
    }
    return RelevanceGlm(model, yes=1, no=2).language_loss(batch)


def test_the_loss_of_training_is_the_recorded_one() -> None:
    assert_close(training_loss(golden_model()), LOSS["loss"])


def test_every_gradient_agrees() -> None:
    model = golden_model()
    training_loss(model).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    norms = {
        key.removeprefix("gradnorm."): value for key, value in LOSS.items() if key.startswith("gradnorm.")
    }
    assert set(norms) == set(gradients)
    for name, norm in norms.items():
        torch.testing.assert_close(gradients[name].norm(), norm, rtol=1e-4, atol=1e-7, msg=name)
    for key in (key for key in LOSS if key.startswith("grad.")):
        assert_close(gradients[key.removeprefix("grad.")], LOSS[key], 1e-6)
