"""Configs, and the whole recipe at a tiny size, interrupted and resumed."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from support.data import SAMPLE, short_sample
from support.glm import tiny_glm_folder
from support.tiny import tiny_checkpoint

from model_repo.repository import Repository
from training.cli import main
from training.config import ConfigError, load_config
from training.errors import FitError, UserError
from training.stages.artifacts import RunFolder, code_commit
from training.stages.run import open_workshop

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.yaml"))
TINY = """
bundle: tiny
render: {max_tokens: 64, query_budget: 12, role_budgets: {title: 8, keywords: 8, category: 6, body: 8}}
pretrain: {optimiser: {tokens: 3000}, batch_tokens: 1024, max_document_tokens: 64, objectives: {language: 1}}
sft: {optimiser: {tokens: 6000}}
"""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path: Path) -> None:
    assert load_config(path).bundle


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bundle: x\nsfft: 1", "sfft"),
        ("a: [", "not YAML"),
        ("- 1", "file: Input should be a valid dictionary"),
        ("bundle: x", "pretrain: Field required"),
        ("bundle: x\nseed: -1", "seed: Input should be greater"),
        ("bundle: My Bundle", "bundle: String should match pattern"),
        ("sft: {optimiser: {tokens: 9, learning_rate: .nan}}", "sft.optimiser.learning_rate"),
        ("render: {field_budgets: {title: 0}}", "render.field_budgets.title"),
    ],
)
def test_a_wrong_config_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"c.yaml: .*{message}"):
        load_config(path)


def test_a_config_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"bundle: caf\xe9\n")
    for path in (tmp_path / "latin.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path)


@pytest.mark.parametrize("family", ["encoder", "glm"])
@pytest.mark.parametrize("tokenizer", [None, "{"])
def test_a_start_folder_without_a_tokenizer_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, tokenizer: str | None
) -> None:
    if tokenizer:
        (tmp_path / "tokenizer.json").write_text(tokenizer)
    (tmp_path / "tiny.yaml").write_text(f"{TINY}family: {family}\nstart: {tmp_path}\n")
    arguments = [
        "--config",
        str(tmp_path / "tiny.yaml"),
        "--data",
        str(SAMPLE),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["run", *arguments]) == 1
    assert "tokenizer.json" in capsys.readouterr().err


def test_a_run_folder_of_other_data_is_not_reused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "items.jsonl").write_text("one\n")
    folder = RunFolder(tmp_path / "out", load_config(CONFIGS[0]))
    folder.bind(data)
    folder.bind(data)
    (data / "items.jsonl").write_text("two\n")
    with pytest.raises(ConfigError, match=r"other data \(items.jsonl\)"):
        folder.bind(data)


def test_a_second_process_in_a_run_folder_is_refused_until_the_first_one_dies(tmp_path: Path) -> None:
    config = load_config(CONFIGS[0])
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with RunFolder(tmp_path, config).training():
            os.write(writer, b"!")
            signal.pause()
    try:
        assert os.read(reader, 1) == b"!"
        folder = RunFolder(tmp_path, config)
        with (
            pytest.raises(ConfigError, match=rf"{tmp_path}: another process trains there"),
            folder.training(),
        ):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with folder.training(), folder.training():
        pass


def test_another_config_is_told_by_its_first_differing_keys(tmp_path: Path) -> None:
    before = load_config(CONFIGS[0])
    RunFolder(tmp_path, before)
    render = before.render.model_copy(update={"max_tokens": 99, "field_budgets": {}})
    with pytest.raises(ConfigError) as error:
        RunFolder(tmp_path, before.model_copy(update={"seed": 7, "render": render}))
    assert "seed: 0 there, 7 here" in str(error.value)
    assert f"render.max_tokens: {before.render.max_tokens} there, 99 here" in str(error.value)
    many = dict.fromkeys(("scale", "contrast_tokens", "near_negatives", "far_negatives", "neighbours"), 7)
    matching = before.pretrain.matching.model_copy(update=many)
    pretrain = before.pretrain.model_copy(update={"matching": matching, "batch_tokens": 1})
    with pytest.raises(ConfigError, match=r"; and 1 more\); remove"):
        RunFolder(tmp_path, before.model_copy(update={"pretrain": pretrain}))


def blank_text(length: int) -> dict[str, torch.Tensor]:
    ids = torch.zeros(1, length, dtype=torch.long)
    return {"input_ids": ids, "segment_ids": ids, "lengths": torch.tensor([length])}


@pytest.mark.parametrize("family", ["encoder", "glm"])
def test_lengths_beyond_the_positions_of_the_model_are_refused(tmp_path: Path, family: str) -> None:
    start = (
        tiny_checkpoint(tmp_path / "start") if family == "encoder" else tiny_glm_folder(tmp_path / "start")
    )
    positions = {"encoder": 256, "glm": 129}[family]
    text = TINY.replace("max_tokens: 64", f"max_tokens: {positions}", 1)
    (tmp_path / "c.yaml").write_text(f"{text}family: {family}\nstart: {start}\n")
    config = load_config(tmp_path / "c.yaml")
    shop = open_workshop(config, SAMPLE, tmp_path / "fits")
    model = shop.model()
    model.states(blank_text(positions))
    with pytest.raises((IndexError, RuntimeError)):
        model.states(blank_text(positions + 1))
    for name, longer in (
        ("render.max_tokens", config.render.model_copy(update={"max_tokens": positions + 1})),
        (
            "pretrain.max_document_tokens",
            config.pretrain.model_copy(update={"max_document_tokens": positions + 1}),
        ),
    ):
        wrong = config.model_copy(update={name.split(".")[0]: longer})
        with pytest.raises(ConfigError, match=rf"{name}: {positions + 1} tokens.* {positions} positions"):
            open_workshop(wrong, SAMPLE, tmp_path / "out")


def test_a_budget_of_an_unknown_field_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = tiny_checkpoint(tmp_path / "start")
    text = TINY.replace("render: {", "render: {field_budgets: {titel: 4}, ")
    (tmp_path / "c.yaml").write_text(f"{text}start: {start}\n")
    open_workshop(load_config(tmp_path / "c.yaml"), SAMPLE, tmp_path / "out")
    said = " ".join(capsys.readouterr().out.split())
    assert "'titel' is no field of" in said
    assert "there are title, " in said


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_split_of_one_kind_is_refused_before_training(
    tmp_path: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, start = short_sample(tmp_path / "data"), tiny_checkpoint(tmp_path / "checkpoint")
    labels = data / f"labels.{split}.tsv"
    rows = labels.read_text().splitlines()
    labels.write_text("\n".join(row for row in rows if row.endswith(("label", "\t0"))) + "\n")
    (tmp_path / "tiny.yaml").write_text(f"{TINY}start: {start}\n")
    arguments = ["--config", str(tmp_path / "tiny.yaml"), "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(["run", *arguments]) == 1
    assert f"labels.{split}: holds irrelevant pairs alone" in capsys.readouterr().err
    assert not (tmp_path / "out" / "corpora.json").exists()


def test_a_run_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_commit() is None


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole recipe on the sample set with a random two-layer model; killed once while exporting."""
    root = tmp_path_factory.mktemp("run")
    data = short_sample(root / "data")
    start = tiny_checkpoint(root / "checkpoint")
    (root / "tiny.yaml").write_text(f"{TINY}start: {start}\n")
    arguments = ["run", "--config", str(root / "tiny.yaml"), "--data", str(data), "--out", str(root / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.models.embedding.minilm_path", lambda: start)
        # Killed when the bundle lies there and the run folder does not know of it yet.
        patch.setattr("model_repo.repository.Repository.promote", _interrupt)
        assert main([*arguments, "--bundles", str(root / "bundles")]) == 130
        assert not (root / "out" / "export.json").exists()
        patch.undo()
        assert main([*arguments, "--bundles", str(root / "bundles")]) == 0
    return root


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_run_leaves_config_curves_metrics_report_and_bundle(tiny_run: Path) -> None:
    out = tiny_run / "out"
    assert "bundle: tiny" in (out / "config.yaml").read_text()
    stage = json.loads((out / "cprm.json").read_text())
    assert stage["seconds"] == stage["curve"][-1]["seconds"] > 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["models"]) == {"cprm", "sft-alone", "bm25", "minilm-cosine"}
    low, high = (metrics["differences"]["sft-alone"]["auc"][side] for side in ("low", "high"))
    assert low <= metrics["differences"]["sft-alone"]["auc"]["value"] <= high
    report = (out / "report.html").read_text()
    assert report.count("data:image/png;base64,") == 4
    assert "What the recipe adds" in report
    assert Repository(tiny_run / "bundles").aliases("tiny") == {"production": "1"}


def test_a_second_start_repeats_nothing(tiny_run: Path) -> None:
    out = tiny_run / "out"
    assert Repository(tiny_run / "bundles").versions("tiny") == ["1"]
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.pt")}
    assert set(before) == {"pretrain.pt", "cprm.pt", "sft-alone.pt"}


def test_a_run_folder_of_another_config_is_not_reused(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_run / "other.yaml"
    other.write_text((tiny_run / "tiny.yaml").read_text() + "seed: 1\n")
    arguments = ["--config", str(other), "--data", str(tiny_run / "data"), "--out", str(tiny_run / "out")]
    assert main(["run", *arguments]) == 1
    assert "holds another configuration (seed: 0 there, 1 here)" in capsys.readouterr().err


def test_score_writes_what_the_bundle_says_about_a_pair_file(tiny_run: Path) -> None:
    bundle, data = tiny_run / "bundles" / "tiny" / "1", tiny_run / "data"
    labels, out = data / "labels.dev.tsv", tiny_run / "scores.tsv"
    arguments = ["--bundle", str(bundle), "--data", str(data), "--labels", str(labels), "--out", str(out)]
    assert main(["score", *arguments]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with labels.open() as file:
        wanted = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["query", "item_id", "label", "score"]
    assert [(r["query"], r["item_id"], r["label"]) for r in rows] == [tuple(w.values()) for w in wanted]
    assert len({r["score"] for r in rows}) > 100
    assert all(0 <= float(r["score"]) <= 1 for r in rows)


def test_score_names_the_bad_line_and_writes_nothing(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, out = tiny_run / "bad.tsv", tiny_run / "none.tsv"
    bad.write_text("query\titem_id\tlabel\ngas\tnope\t1\n")
    arguments = ["--bundle", str(tiny_run / "bundles/tiny/1"), "--data", str(tiny_run / "data")]
    assert main(["score", *arguments, "--labels", str(bad), "--out", str(out)]) == 1
    assert "bad.tsv:2: item_id: 'nope' is not in items" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("error", [*FitError.__subclasses__(), *UserError.__subclasses__()])
def test_an_error_that_a_user_can_mend_is_one_line(
    error: type[UserError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error("mend this")

    monkeypatch.setattr("training.config.load_config", fail)
    assert main(["run", "--config", "c.yaml"]) == 1
    assert capsys.readouterr().err == "cprm-train: mend this\n"
