"""The memory model against what torch really keeps: parameters and moments exactly, activations within 5%."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.config import OptimiserConfig
from training.models.checkpoint import minilm_path
from training.models.encoder import RelevanceEncoder
from training.models.glm.config import named_config
from training.models.glm.model import GLMModel
from training.plan.anatomy import encoder_anatomy, glm_anatomy
from training.plan.arithmetic import step_flops
from training.plan.batches import Shape
from training.plan.memory import activation_bytes, logit_bytes, step_memory

ROWS, LENGTH, SEGMENTS = 8, 128, 7
SHAPE = Shape("language", ROWS * LENGTH, ((ROWS, LENGTH),), told=0)
NO_DROPOUT = {f"{kind}_dropout_prob": 0.0 for kind in ("embedding", "attention", "output")}


@pytest.fixture(scope="module")
def tiny_glm() -> GLMModel:
    return GLMModel(named_config("glm-tiny", segment_count=SEGMENTS, **NO_DROPOUT)).train()


@pytest.fixture(scope="module")
def small_glm() -> GLMModel:
    return GLMModel(named_config("glm-small", segment_count=SEGMENTS, **NO_DROPOUT)).train()


@pytest.fixture(scope="module")
def minilm() -> RelevanceEncoder:
    return RelevanceEncoder(minilm_path(), segments=SEGMENTS, dropout=0.0).train()


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor], *, half: bool) -> int:
    """Bytes of distinct storages saved for backward: neither weights nor autocast's copies of them."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape[::-1]) for p in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        copy = tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in shapes
        if storage.data_ptr() not in weights and not copy:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", torch.bfloat16, enabled=half):
        forward()
    return sum(kept.values())


def read(glm: GLMModel) -> Tensor:
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    places = torch.zeros(ROWS, 2, LENGTH, dtype=torch.long)
    return glm.hidden(ids, places, torch.full((ROWS,), LENGTH // 2), ids)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("size", ["tiny_glm", "small_glm"])
def test_glm_keeps_the_activations_that_the_formula_says(
    size: str, half: bool, request: pytest.FixtureRequest
) -> None:
    glm = request.getfixturevalue(size)
    said = activation_bytes(glm_anatomy(size, glm.config), SHAPE, half=half)
    assert kept_bytes(glm, lambda: read(glm), half=half) == pytest.approx(said, rel=0.05)


def test_checkpointing_keeps_one_fp32_input_a_layer(small_glm: GLMModel) -> None:
    anatomy = glm_anatomy("glm-small", small_glm.config)
    whole = activation_bytes(anatomy, SHAPE, half=False)
    layer = whole / anatomy.layers
    said = activation_bytes(anatomy, SHAPE, half=False, checkpointing=True)
    small_glm.gradient_checkpointing_enable()
    try:
        between = kept_bytes(small_glm, lambda: read(small_glm), half=False)
    finally:
        small_glm.gradient_checkpointing_disable()
    # The hooks see what stays between the passes; the layer that is computed again comes on top.
    assert between == pytest.approx(said - layer, rel=0.1)


@pytest.mark.parametrize("half", [False, True])
def test_a_bert_keeps_the_activations_that_the_formula_says(minilm: RelevanceEncoder, half: bool) -> None:
    ids = torch.ones(ROWS, LENGTH, dtype=torch.long)
    lengths = torch.full((ROWS,), LENGTH)
    lengths[0] -= 1  # padding, so that there is a mask
    batch = {"input_ids": ids, "segment_ids": ids, "lengths": lengths}
    said = activation_bytes(encoder_anatomy("minilm", minilm_path(), segments=SEGMENTS), SHAPE, half=half)
    assert kept_bytes(minilm, lambda: minilm.states(batch), half=half) == pytest.approx(said, rel=0.05)


def test_logits_keep_and_pass_back_what_the_formula_says(tiny_glm: GLMModel) -> None:
    told, words = 100, tiny_glm.config.vocab_size
    anatomy = glm_anatomy("glm-tiny", tiny_glm.config)
    logits = torch.zeros(told, words, requires_grad=True)
    loss = kept_bytes(
        tiny_glm,
        lambda: nn.functional.cross_entropy(logits, torch.zeros(told, dtype=torch.long)),
        half=False,
    )
    gradient = logits.numel() * 4
    shape = Shape("language", told, ((1, told),), told)
    assert loss + gradient == pytest.approx(logit_bytes(anatomy, shape, half=False), rel=0.01)


@pytest.mark.parametrize("size", ["glm-tiny", "glm-small"])
def test_glm_parameters_are_exact(size: str, request: pytest.FixtureRequest) -> None:
    glm = request.getfixturevalue(size.replace("-", "_").replace("glm_", "") + "_glm")
    anatomy = glm_anatomy(size, glm.config)
    real = sum(parameter.numel() for parameter in glm.parameters())
    assert anatomy.parameters == real


def test_glm_2b_counts_as_published_without_a_weight_being_made() -> None:
    assert glm_anatomy("glm-2b", named_config("glm-2b")).parameters == 1_920_122_880


def test_encoder_parameters_are_exact(minilm: RelevanceEncoder) -> None:
    real = sum(parameter.numel() for parameter in minilm.parameters())
    assert encoder_anatomy("minilm", minilm_path(), segments=SEGMENTS).parameters == real


def test_weights_gradients_and_moments_are_exact_bytes(tiny_glm: GLMModel) -> None:
    model = GLMModel(tiny_glm.config)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    model.project(read(model)).sum().backward()
    optimiser.step()

    def size(tensors: list[Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    memory = step_memory(glm_anatomy("glm-tiny", model.config), SHAPE, OptimiserConfig(tokens=1), dropout=0.0)
    moments = [state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert memory.weights == size(list(model.parameters()))
    assert memory.gradients == size([p.grad for p in model.parameters() if p.grad is not None])
    assert memory.moments == size(moments)
    assert memory.copies == 0


def test_autocast_copies_every_matrix_once(small_glm: GLMModel) -> None:
    anatomy = glm_anatomy("glm-small", small_glm.config)
    memory = step_memory(anatomy, SHAPE, OptimiserConfig(tokens=1, precision="bf16"), dropout=0.0)
    matrices = sum(p.numel() for p in small_glm.transformer.layers.parameters() if p.ndim > 1)
    assert memory.copies == 2 * (matrices + small_glm.word_embeddings.weight.numel())


def test_flops_are_what_torch_counts(tiny_glm: GLMModel) -> None:
    told = 50
    # torch's counter knows the products of the plain attention, not the fused kernel of a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tiny_glm.project(read(tiny_glm)[0, :told]).sum().backward()
    shape = Shape("language", ROWS * LENGTH, ((ROWS, LENGTH),), told)
    said = step_flops(glm_anatomy("glm-tiny", tiny_glm.config), shape, checkpointing=False)
    assert counter.get_total_flops() == pytest.approx(said, rel=0.001)


def test_checkpointing_costs_a_third_more(small_glm: GLMModel) -> None:
    anatomy = glm_anatomy("glm-small", small_glm.config)
    once, twice = (step_flops(anatomy, SHAPE, checkpointing=kept) for kept in (False, True))
    assert twice / once == pytest.approx(4 / 3)


def test_reading_an_anatomy_needs_the_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((minilm_path() / "config.json").read_bytes())
    copied = encoder_anatomy("copy", tmp_path, segments=SEGMENTS)
    assert copied.parameters == encoder_anatomy("copy", minilm_path(), segments=SEGMENTS).parameters
