"""What must not change a GLM's result: padding, checkpointed activations, and but little, half precision."""

from __future__ import annotations

import pytest
import torch
from support.glm import tiny_glm
from torch import Tensor

from training.models.glm.model import GLMModel, visibility
from training.models.glm.relevance import RelevanceGlm


def infilled(rows: int = 3, length: int = 14) -> dict[str, Tensor]:
    """Random rows with one span each, told behind `sep`."""
    generator = torch.Generator().manual_seed(1)
    sep = torch.tensor([9, 7, 10])[:rows]
    places = torch.arange(length).expand(rows, -1)
    in_b = places >= sep[:, None]
    return {
        "input_ids": torch.randint(0, 128, (rows, length), generator=generator),
        "segment_ids": places % 5,
        "position_ids": torch.stack(
            [torch.where(in_b, 3, places), (places - sep[:, None] + 1).clamp(min=0)], dim=1
        ),
        "sep": sep,
        "targets": torch.randint(0, 128, (rows, length), generator=generator),
        "loss_mask": in_b.long(),
    }


def gradients(model: GLMModel, *, checkpointed: bool = False, bf16: bool = False) -> dict[str, Tensor]:
    relevance = RelevanceGlm(model, yes=5, no=6).train()
    if checkpointed:
        relevance.checkpoint_activations()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = relevance.language_loss(infilled())
    loss.backward()
    return {name: p.grad for name, p in relevance.named_parameters() if p.grad is not None}


def test_part_a_sees_all_of_itself_and_part_b_what_came_before() -> None:
    seen = visibility(torch.tensor([2, 0]), 4)[:, 0].int().tolist()
    assert seen[0] == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert seen[1] == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_checkpointed_activations_give_the_same_gradients() -> None:
    plain = gradients(tiny_glm(segment_count=5))
    checkpointed = gradients(tiny_glm(segment_count=5), checkpointed=True)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-6, atol=1e-8, msg=name)


def test_checkpointed_activations_are_really_computed_twice() -> None:
    model = tiny_glm(segment_count=5)
    calls: list[None] = []
    model.transformer.layers[0].attention.register_forward_hook(lambda *_: calls.append(None))
    gradients(model, checkpointed=True)
    assert len(calls) == 2


def test_dropout_of_a_checkpointed_layer_is_drawn_once() -> None:
    dropped = {"output_dropout_prob": 0.3, "attention_dropout_prob": 0.0, "segment_count": 5}
    found = []
    for checkpointed in (False, True):
        model = tiny_glm(**dropped)
        torch.manual_seed(3)
        found.append(gradients(model, checkpointed=checkpointed))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-6, atol=1e-8, msg=name)


def test_bf16_gives_gradients_in_the_same_direction() -> None:
    plain, half = gradients(tiny_glm(segment_count=5)), gradients(tiny_glm(segment_count=5), bf16=True)
    one, two = (torch.cat([g[name].flatten() for name in plain]) for g in (plain, half))
    assert {gradient.dtype for gradient in half.values()} == {torch.float32}
    assert float(torch.nn.functional.cosine_similarity(one, two, dim=0)) > 0.999
    assert not torch.equal(one, two)


@torch.no_grad()
@pytest.mark.parametrize("pad", [0, 77])
def test_what_stands_right_of_a_row_changes_nothing(pad: int) -> None:
    model, batch = tiny_glm(segment_count=5), infilled()
    names = ("input_ids", "position_ids", "segment_ids")
    plain = model.hidden(batch["input_ids"], batch["position_ids"], batch["sep"], batch["segment_ids"])
    wide = {name: torch.nn.functional.pad(batch[name], (0, 6), value=0) for name in names}
    wide["input_ids"][:, 14:] = pad
    found = model.hidden(wide["input_ids"], wide["position_ids"], batch["sep"], wide["segment_ids"])
    torch.testing.assert_close(found[:, :14], plain, atol=1e-5, rtol=0.0)
