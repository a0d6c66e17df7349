"""The dry run on every shipped config, on a data set of a few items; and what it says when things are missing."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from training.cli import main
from training.config import ConfigError, RunConfig, load_config
from training.models.checkpoint import load_tokenizer, minilm_path
from training.models.embedding import MINILM
from training.models.glm.config import named_config
from training.models.glm.vocabulary import bert_tokenizer, padded_vocabulary
from training.plan.at_hand import open_filter, open_start
from training.plan.batches import Shape, shape_of
from training.plan.estimate import RunPlan, plan_run
from training.plan.machines import MACHINES, Machine, open_machine
from training.plan.memory import step_memory
from training.plan.remedies import Knobs, remedies
from training.plan.render import show_plan
from training.streams import Batch

CONFIGS = Path(__file__).parents[3] / "training" / "configs"
NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))


@pytest.fixture(scope="module")
def few_items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve items, each clicked under two queries, with labels for them."""
    root = tmp_path_factory.mktemp("few")
    roles = {"title": "title", "keywords": "keywords", "category": "category"}
    card = {
        "name": "few",
        "language": "en",
        "licence": "CC0-1.0",
        "item_fields": [{"name": name, "role": role} for name, role in roles.items()],
        "plain_text_field": "title",
        "labels": {"scale": [0, 1], "relevant_from": 1},
    }
    (root / "dataset.json").write_text(json.dumps(card))
    words = ["rent", "bus", "gas", "film", "shoes", "news", "tax", "golf", "tea", "ski", "loan", "pets"]
    items, clicks, labels = [], ["query\titem_id\timpressions\tclicks"], ["query\titem_id\tlabel"]
    for number, word in enumerate(words):
        fields = {"title": f"{word} desk", "keywords": [word, f"pay {word}"], "category": "daily"}
        items.append(json.dumps({"item_id": f"A{number}", "fields": fields}))
        for query in (f"{word} near me", f"find {word}"):
            clicks.append(f"{query}\tA{number}\t400\t200")
            labels += [f"{query}\tA{number}\t1", f"{query}\tA{(number + 1) % len(words)}\t0"]
    (root / "items.jsonl").write_text("\n".join(items) + "\n")
    (root / "clicks.tsv").write_text("\n".join(clicks) + "\n")
    for split in ("train", "dev", "test"):
        (root / f"labels.{split}.tsv").write_text("\n".join(labels) + "\n")
    return root


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder without `runs/`, so that no start checkpoint is at hand."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield Path.cwd()
    os.chdir(before)


@pytest.fixture(scope="module")
def plan_2b(few_items: Path, elsewhere: Path) -> RunPlan:
    return plan_run(glm_2b(), few_items, draws=2)


def glm_2b() -> RunConfig:
    """The shipped config with steps that are quickly drawn."""
    config = load_config(CONFIGS / "glm-2b.yaml")
    small = config.pretrain.model_copy(update={"batch_tokens": 1024})
    return config.model_copy(update={"pretrain": small})


def shown(plan: RunPlan) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    show_plan(plan, console)
    return console.export_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_config_is_planned(name: str, few_items: Path, elsewhere: Path) -> None:
    config = load_config(CONFIGS / name)
    plan = plan_run(config, few_items, machine="h100-80gb", draws=1)
    assert {corpus.name for corpus in plan.corpora} == {"dke", "icp", "rcd"}
    assert len(plan.stages) == 2 + config.sft_alone
    peak = plan.machine.peaks[config.sft.optimiser.precision]
    for stage in plan.stages:
        assert stage.fits
        assert stage.steps * stage.step_tokens == pytest.approx(stage.tokens, abs=stage.step_tokens)
        assert stage.seconds == pytest.approx(stage.flops / (peak * plan.mfu))
    assert not list(elsewhere.iterdir())


def test_the_plan_of_glm_2b_names_everything_that_is_not_at_hand(plan_2b: RunPlan) -> None:
    said = "\n".join(plan_2b.missing)
    for name in ("start checkpoint runs/glm-2b", "tokenizer of runs/glm-2b", "facebook/contriever"):
        assert name in said
    assert plan_2b.model.vocabulary == 50304
    assert plan_2b.icp_embedder == MINILM


def test_the_machine_comes_from_the_config(plan_2b: RunPlan) -> None:
    assert plan_2b.machine.name == "h100-80gb"


def test_glm_2b_takes_eight_flop_per_weight_and_token_and_a_little_for_the_rest(plan_2b: RunPlan) -> None:
    stage = plan_2b.stages[1]
    least = 8 * plan_2b.model.layer_weights * stage.tokens / (1 - stage.padding)
    assert least < stage.flops < 1.05 * least


def test_the_command_prints_json_and_writes_it_into_a_run_folder(
    few_items: Path, elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(
        "{bundle: small, pretrain: {optimiser: {tokens: 1000}, batch_tokens: 256},"
        " sft: {optimiser: {tokens: 1000}, queries_per_batch: 1, items_per_query: 2}}"
    )
    command = ["run", "--config", str(config), "--data", str(few_items), "--dry-run", "--json"]
    assert main([*command, "--machine", "a100-80gb", "--mfu", "0.5", "--out", str(tmp_path / "run")]) == 0
    written = tmp_path / "run" / "plan.json"
    assert [path.name for path in written.parent.iterdir()] == ["plan.json"]
    assert capsys.readouterr().out == written.read_text()
    assert json.loads(written.read_text())["mfu"] == 0.5


def test_tables_for_people(plan_2b: RunPlan) -> None:
    text = shown(plan_2b)
    for said in (
        "NOT AT HAND",
        "h100-80gb",
        "40% of the peak",
        "AdamW moments",
        "steps",
        "epochs",
        "tokens/s",
    ):
        assert said in text


def test_what_does_not_fit_is_said_with_a_remedy(few_items: Path, elsewhere: Path) -> None:
    plan = plan_run(glm_2b(), few_items, machine="l4-24gb", draws=1)
    assert not plan.as_dict()["fits"]
    assert "DOES NOT FIT" in shown(plan)
    assert "take one with more memory" in shown(plan)


def test_a_remedy_really_fits(plan_2b: RunPlan) -> None:
    config = load_config(CONFIGS / "glm-2b.yaml").pretrain.optimiser.model_copy(
        update={"gradient_checkpointing": False}
    )
    shape, limit = Shape("language", 32768, ((128, 256),), told=8192), plan_2b.memory_limit
    plain = step_memory(plan_2b.model, shape, config, dropout=0.0)
    assert plain.total > limit
    knobs = Knobs("pretrain", {}, ("pretrain.batch_tokens", 32768))
    first, second = remedies(plan_2b.model, [shape], config, knobs, limit, 0.0)
    assert first.startswith("pretrain.optimiser.gradient_checkpointing: true")
    assert second == "pretrain.batch_tokens: 8192 (now 32768)"
    assert step_memory(plan_2b.model, shape, config, dropout=0.0, checkpointing=True).total <= limit
    assert step_memory(plan_2b.model, shape.shrunk(1 / 4), config, dropout=0.0).total <= limit
    assert step_memory(plan_2b.model, shape.shrunk(1 / 2), config, dropout=0.0).total > limit


def test_a_remedy_covers_every_objective_that_is_too_large(plan_2b: RunPlan) -> None:
    config = load_config(CONFIGS / "glm-2b.yaml").pretrain.optimiser
    shapes = [Shape(name, 400_000, ((1600, 256),), told=0) for name in ("contrast", "joint")]
    shapes.append(Shape("language", 1000, ((4, 256),), told=0))
    knobs = Knobs("pretrain", {"contrast": ("contrast_tokens", 1000)}, ("batch_tokens", 4000))
    assert remedies(plan_2b.model, shapes, config, knobs, plan_2b.memory_limit, 0.0) == (
        "contrast_tokens: 250 (now 1000) and batch_tokens: 1000 (now 4000)",
    )


def test_a_start_folder_with_a_tokenizer_is_used_even_without_weights(tmp_path: Path) -> None:
    tokenizer = bert_tokenizer(load_tokenizer(minilm_path()))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    named_config("glm-tiny", vocab_size=padded_vocabulary(tokenizer)).save_pretrained(tmp_path)
    config = load_config(CONFIGS / "glm-small.yaml").model_copy(update={"start": str(tmp_path)})
    start = open_start(config)
    assert start.tokenizer == str(tmp_path)
    assert start.missing == (f"start checkpoint {tmp_path}: no weights (*.safetensors or *.bin)",)


def test_a_missing_start_of_unknown_size_is_refused(few_items: Path, elsewhere: Path) -> None:
    config = load_config(CONFIGS / "glm-small.yaml").model_copy(update={"start": "runs/glm-9b"})
    with pytest.raises(ConfigError, match="'glm-9b' is no known size"):
        plan_run(config, few_items)


@pytest.mark.parametrize(("name", "positions"), [("demo", 512), ("glm-2b", 1025)])
def test_lengths_beyond_the_positions_are_refused_by_the_plan_too(
    name: str, positions: int, few_items: Path, elsewhere: Path
) -> None:
    config = load_config(CONFIGS / f"{name}.yaml", [f"render.max_tokens={positions + 1}"])
    with pytest.raises(ConfigError, match=f"{positions + 1} tokens, but .* has {positions} positions"):
        plan_run(config, few_items)


def test_an_embedder_folder_is_at_hand() -> None:
    _, name, missing = open_filter(str(minilm_path()))
    assert (name, missing) == (str(minilm_path()), None)


def test_an_unknown_machine_is_refused_by_name(few_items: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--config", str(CONFIGS / "demo.yaml"), "--data", str(few_items), "--dry-run"]
    assert main([*command, "--machine", "h900"]) == 1
    assert "'h900' is unknown; there are this-machine, h100-80gb" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0", "1.5"])
def test_a_share_of_the_peak_is_a_share(share: str) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--config", "x.yaml", "--dry-run", "--mfu", share])


def test_this_machine_is_measured_in_the_precisions_of_the_stages() -> None:
    here = open_machine("this-machine", {"no", "bf16"})
    assert here.peaks.keys() == {"no", "bf16"}
    assert min(here.peaks.values()) > 1e9
    assert here.memory > 1024**3


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
def test_a_data_sheet_machine_is_plausible(machine: Machine) -> None:
    assert machine.peaks["bf16"] == machine.peaks["fp16"] > machine.peaks["no"]
    assert machine.mfu(2048) > machine.mfu(384)


def test_both_sides_of_a_contrast_are_read() -> None:
    ids = {"text.input_ids": torch.ones(4, 5), "item.input_ids": torch.ones(4, 9)}
    shape = shape_of(Batch(ids, 50, "contrast"))
    assert shape.texts == ((4, 5), (4, 9))
    assert shape.padded == 56
