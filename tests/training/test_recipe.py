"""Configs, and the whole recipe at a tiny size, interrupted and resumed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from support.data import SAMPLE, short_sample
from support.tiny import tiny_checkpoint

from model_repo.repository import Repository
from training.cli import main
from training.config import ConfigError, load_config
from training.errors import FitError, UserError
from training.stages.artifacts import RunFolder, code_commit

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


def test_a_run_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_commit() is None


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole recipe on the sample set with a random two-layer model; interrupted once before the report."""
    root = tmp_path_factory.mktemp("run")
    data = short_sample(root / "data")
    start = tiny_checkpoint(root / "checkpoint")
    (root / "tiny.yaml").write_text(f"{TINY}start: {start}\n")
    arguments = ["run", "--config", str(root / "tiny.yaml"), "--data", str(data), "--out", str(root / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.models.embedding.minilm_path", lambda: start)
        patch.setattr("training.stages.run.write_report", _interrupt)
        assert main([*arguments, "--bundles", str(root / "bundles")]) == 130
        patch.undo()
        assert main([*arguments, "--bundles", str(root / "bundles")]) == 0
    return root


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_run_leaves_config_curves_metrics_report_and_bundle(tiny_run: Path) -> None:
    out = tiny_run / "out"
    assert "bundle: tiny" in (out / "config.yaml").read_text()
    assert json.loads((out / "cprm.json").read_text())["curve"]
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
    assert "holds another configuration" in capsys.readouterr().err


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
