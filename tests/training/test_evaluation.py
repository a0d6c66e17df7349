"""What a run says about its models, and `cprm-train evaluate` on score files, bad ones included."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from model_repo.manifest import Manifest
from training.cli import main
from training.data.dataset import Dataset, load_dataset
from training.evaluation.bootstrap import Run, paired_difference
from training.evaluation.calibrate import fit_calibration
from training.evaluation.reliability import reliability
from training.export.card import model_card
from training.report.render import write_report
from training.stages.evaluate import SplitScores, summarise

BUNDLE = Path(__file__).parents[2] / "model_repo" / "bundles" / "miniapps" / "1"
QUERIES, ITEMS = 24, 8
STYLES = ("short", "typo")
HEADER = "query\titem_id\tlabel\tscore"


def manifest_of_a_bundle() -> Manifest:
    return Manifest.model_validate_json((BUNDLE / "manifest.json").read_bytes())


def label(query: int, item: int) -> int:
    return 3 if item == query % ITEMS else 2 if (query + item) % 5 == 0 else (query * item) % 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve queries a split, eight items, two styles, two slices, one cold item."""
    folder = tmp_path_factory.mktemp("data")
    card = {
        "name": "small",
        "language": "en",
        "licence": "CC0-1.0",
        "item_fields": [{"name": "title", "role": "title"}],
        "labels": {"scale": [0, 3], "relevant_from": 2},
    }
    (folder / "dataset.json").write_text(json.dumps(card))
    items = ({"item_id": f"i{i}", "fields": {"title": f"thing {i}"}} for i in range(ITEMS))
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    for split, numbers in (("dev", range(12)), ("test", range(12, QUERIES))):
        rows = [f'the "q" {q}\ti{i}\t{label(q, i)}' for q in numbers for i in range(ITEMS)]
        (folder / f"labels.{split}.tsv").write_text("\n".join(["query\titem_id\tlabel", *rows]) + "\n")
    infos = (
        {
            "query": f'the "q" {q}',
            "split": "dev" if q < 12 else "test",
            "style": STYLES[q % 2],
            "slice": "unseen-intent" if q % 3 else "seen-intent",
        }
        for q in range(QUERIES)
    )
    (folder / "queries.jsonl").write_text("".join(json.dumps(info) + "\n" for info in infos))
    (folder / "cold_items.txt").write_text("i7\n")
    return folder


def noisy(dataset: Dataset, split: str, seed: int, noise: float) -> np.ndarray:
    labels = np.array([pair.label for pair in dataset.labels(split)])
    return (labels + np.random.default_rng(seed).normal(0, noise, len(labels))).astype(np.float32)


def split_scores(dataset: Dataset, seed: int, noise: float) -> SplitScores:
    return SplitScores(noisy(dataset, "dev", seed, noise), noisy(dataset, "test", seed + 50, noise))


@pytest.fixture(scope="module")
def results(data: Path) -> dict[str, object]:
    dataset = load_dataset(data)
    scores = {
        "cprm": split_scores(dataset, 1, 0.5),
        "sft-alone": split_scores(dataset, 2, 2.0),
        "backwards": SplitScores(-noisy(dataset, "dev", 3, 0.5), -noisy(dataset, "test", 4, 0.5)),
    }
    labels = np.array([pair.label for pair in dataset.labels("dev")])
    calibration = fit_calibration(scores["cprm"].dev, labels, dataset.card.labels)
    return summarise(dataset, scores, calibration, recipe="cprm", control="sft-alone")


def test_every_slice_has_every_models_metrics_and_the_difference_to_the_control(
    results: dict, data: Path
) -> None:
    slices = {"all", "seen-intent", "unseen-intent", "cold items", "3-5 words", "style: short", "style: typo"}
    assert set(results["slices"]) == slices
    assert results["slices"]["all"] == {"pairs": 96, "queries": 12}
    assert results["slices"]["style: typo"] == {"pairs": 48, "queries": 6}
    assert results["slices"]["cold items"] == {"pairs": 12, "queries": 12}
    for by_slice in results["models"].values():
        assert set(by_slice) == slices
        assert all({"auc", "ndcg10", "mrr"} < set(measured) for measured in by_slice.values())
    found = results["slice_differences"]["sft-alone"]
    assert set(found) == slices
    typo = found["style: typo"]["auc"]
    models = results["models"]
    expected = (
        models["cprm"]["style: typo"]["auc"]["value"] - models["sft-alone"]["style: typo"]["auc"]["value"]
    )
    assert typo["value"] == pytest.approx(expected)
    assert typo["low"] <= typo["value"] <= typo["high"]
    assert found["all"] == results["differences"]["sft-alone"]
    json.dumps(results, allow_nan=False)


def test_every_model_has_a_calibration_error_after_its_own_platt_scaling(results: dict, data: Path) -> None:
    dataset = load_dataset(data)
    assert set(results["calibration"]) == {"cprm", "sft-alone", "backwards"}
    scores = split_scores(dataset, 2, 2.0)
    dev, test = (np.array([p.label >= 2 for p in dataset.labels(split)]) for split in ("dev", "test"))
    platt = LogisticRegression(C=np.inf).fit(scores.dev[:, None], dev)
    by_hand = reliability(platt.predict_proba(scores.test[:, None])[:, 1], test)["expected_calibration_error"]
    assert results["calibration"]["sft-alone"]["expected_calibration_error"] == pytest.approx(
        by_hand, abs=1e-3
    )
    assert results["calibration"]["backwards"]["slope"] < 0
    assert results["calibration"]["backwards"]["expected_calibration_error"] < 0.2
    recipe = results["calibration"]["cprm"]["expected_calibration_error"]
    assert recipe == pytest.approx(results["reliability"]["expected_calibration_error"])


def test_the_calibration_error_by_hand() -> None:
    relevance = np.array([0.05, 0.05, 0.95, 0.95, 1.0])
    found = reliability(relevance, np.array([False, True, True, True, True]))
    assert found["pairs"] == [2, 3]
    expected = (2 * abs(0.05 - 0.5) + 3 * abs(2.9 / 3 - 1)) / 5
    assert found["expected_calibration_error"] == pytest.approx(expected)


def test_report_and_card_show_mrr_styles_and_calibration(results: dict, tmp_path: Path) -> None:
    manifest = manifest_of_a_bundle()
    (tmp_path / "metrics.json").write_text(json.dumps(results))
    (tmp_path / "corpora.json").write_text("{}")
    (tmp_path / "cprm.json").write_text(json.dumps({"curve": [{"tokens": 1, "loss": 1.0}]}))
    page = write_report(tmp_path, manifest).read_text()
    for text in ("MRR", "style: typo", "AUC minus sft-alone", "calibration error"):
        assert text in page, text
    card = model_card(manifest.model_copy(update={"metrics": results["card"]}))
    assert "| nDCG@10 | MRR |" in card
    assert "| style: typo |" in card
    assert "Expected calibration error" in card


def test_a_report_of_an_earlier_run_still_opens(results: dict, tmp_path: Path) -> None:
    earlier = {name: results[name] for name in ("models", "differences", "reliability")}
    earlier = json.loads(json.dumps(earlier))
    for measured in [*(by["all"] for by in earlier["models"].values()), *earlier["differences"].values()]:
        del measured["mrr"]
    (tmp_path / "metrics.json").write_text(json.dumps(earlier))
    (tmp_path / "corpora.json").write_text("{}")
    (tmp_path / "cprm.json").write_text(json.dumps({"curve": [{"tokens": 1, "loss": 1.0}]}))
    assert "MRR" not in write_report(tmp_path, manifest_of_a_bundle()).read_text()


# cprm-train evaluate


def rows_of(data: Path, noise: float, seed: int = 0) -> list[str]:
    """Lines of a score file of the test split, header first."""
    dataset = load_dataset(data)
    scores = 1 / (1 + np.exp(-2 * (noisy(dataset, "test", seed, noise) - 1.5)))
    pairs = zip(dataset.labels("test"), scores, strict=True)
    return [HEADER, *(f"{p.query}\t{p.item_id}\t{p.label}\t{s:.9f}" for p, s in pairs)]


def written(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_evaluate_compares_files_in_any_order_with_the_first(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = rows_of(data, 0.4, 1), rows_of(data, 3.0, 2)
    first = written(tmp_path / "first[1].tsv", good)
    second = written(tmp_path / "second.tsv", [HEADER, *reversed(bad[1:])])
    out = tmp_path / "made" / "result.json"
    arguments = [str(first), str(second), "--data", str(data), "--split", "test", "--json", str(out)]
    assert main(["evaluate", *arguments]) == 0
    shown = capsys.readouterr().out
    for text in ("first[1].tsv", "nDCG@10", "MRR", "style: typo", "unseen-intent", "Minus "):
        assert text in shown, text
    result = json.loads(out.read_text())
    labels = np.array([int(row.split("\t")[2]) for row in good[1:]]) >= 2
    scores = [np.array([float(row.split("\t")[3]) for row in rows[1:]]) for rows in (good, bad)]
    models = result["models"]
    assert models[str(first)]["all"]["auc"]["value"] == pytest.approx(100 * roc_auc_score(labels, scores[0]))
    accuracy = 100 * np.mean(labels == (scores[0] >= 0.5))
    assert models[str(first)]["all"]["accuracy"]["value"] == pytest.approx(accuracy)
    dataset = load_dataset(data)
    runs = Run(scores[1], 0.5), Run(scores[0], 0.5)
    expected = paired_difference(dataset.labels("test"), *runs, scale=dataset.card.labels)
    found = result["differences"][str(second)]["all"]["auc"]
    assert found["high"] < 0
    assert found["p_value"] == expected["auc"].p_value
    assert found["low"] == pytest.approx(expected["auc"].low)
    error = reliability(scores[0], labels)["expected_calibration_error"]
    assert result["calibration"][str(first)] == pytest.approx(error)


def test_one_file_needs_no_second_and_a_threshold_frees_the_scale(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = load_dataset(data)
    logits = noisy(dataset, "test", 0, 0.5) * 10
    lines = [
        f"{p.query}\t{p.item_id}\t{p.label}\t{s}" for p, s in zip(dataset.labels("test"), logits, strict=True)
    ]
    file = written(tmp_path / "logits.tsv", [HEADER, *lines])
    out = tmp_path / "out.json"
    arguments = ["evaluate", str(file), "--data", str(data), "--threshold", "15", "--json", str(out)]
    assert main(arguments) == 0
    assert "Minus" not in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["calibration"] == {str(file): None}
    relevant = [pair.label >= 2 for pair in dataset.labels("test")]
    assert result["models"][str(file)]["all"]["f1"]["value"] == pytest.approx(
        100 * f1_score(relevant, logits >= 15)
    )


def changed(line: int, text: str) -> Callable[[list[str]], list[str]]:
    return lambda rows: [*rows[: line - 1], *([text] if text else []), *rows[line:]]


BAD: dict[str, tuple[Callable[[list[str]], list[str]], list[str]]] = {
    "header": (changed(1, "a\tb"), [":1:", "header"]),
    "columns": (changed(3, "q\ti1"), [":3:", "wrong-columns"]),
    "unknown item": (changed(4, "q\tnope\t0\t0.5"), [":4:", "item_id", "'nope'", "add the item"]),
    "label not a number": (changed(4, "q\ti1\tx\t0.5"), [":4:", "label", "whole number"]),
    "label off the scale": (changed(4, "q\ti1\t9\t0.5"), [":4:", "label", "0..3"]),
    "score not a number": (changed(4, "q\ti1\t0\thigh"), [":4:", "score", "'high'", "write a number"]),
    "score not finite": (changed(4, "q\ti1\t0\tnan"), [":4:", "score", "'nan'"]),
    "score is a logit": (changed(4, "q\ti1\t0\t3.5"), [":4:", "score", "3.5", "--threshold"]),
    "duplicate": (lambda rows: [*rows, rows[5]], [":98:", "duplicate-pair"]),
    "foreign pair": (changed(4, "q\ti1\t0\t0.5"), [":4:", "query", "first.tsv", "pair-mismatch"]),
    "missing pair": (changed(4, ""), ["second.tsv:96:", "first.tsv:4", "has no line"]),
    "another label": (changed(2, 'the "q" 12\ti0\t1\t0.5'), [":2:", "label: 1, but 0 in", "first.tsv:2"]),
    "empty": (lambda rows: rows[:1], ["holds no pair"]),
}


@pytest.mark.parametrize("name", BAD)
def test_evaluate_names_file_line_field_and_remedy(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, expected = BAD[name]
    good = rows_of(data, 1.0)
    first = written(tmp_path / "first.tsv", good)
    second = written(tmp_path / "second.tsv", damage(good))
    assert main(["evaluate", str(first), str(second), "--data", str(data)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("cprm-train: ")
    for text in ["second.tsv", *expected]:
        assert text in said, (text, said)


def test_a_file_of_another_split_or_a_part_of_one_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(data, 1.0)
    whole, part = written(tmp_path / "whole.tsv", rows), written(tmp_path / "part.tsv", rows[:50])
    common = ["--data", str(data), "--split"]
    assert main(["evaluate", str(whole), *common, "dev"]) == 1
    assert "whole.tsv:2: query:" in (said := capsys.readouterr().err)
    assert "labels.dev.tsv" in said
    assert main(["evaluate", str(part), *common, "test"]) == 1
    assert "labels.test.tsv has no line" in capsys.readouterr().err


def test_a_missing_file_and_one_named_twice_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(written(tmp_path / "scores.tsv", rows_of(data, 1.0)))
    assert main(["evaluate", file, file, "--data", str(data)]) == 1
    assert "named twice" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "none.tsv"), "--data", str(data)]) == 1
    assert "none.tsv: missing" in capsys.readouterr().err


def test_what_score_writes_evaluate_reads_quotation_marks_included(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = Path(__file__).parents[2] / "data" / "sample"
    queries = ['pay a "water" bill', 'a 12" screen', "plain"]
    rows = [f"{query}\tA000{item}\t{item % 2 * 3}" for query in queries for item in (1, 2, 3)]
    labels = written(tmp_path / "labels.tsv", ["query\titem_id\tlabel", *rows])
    scores = tmp_path / "scores.tsv"
    common = ["--data", str(sample)]
    assert (
        main(["score", "--bundle", str(BUNDLE), *common, "--labels", str(labels), "--out", str(scores)]) == 0
    )
    assert [line.rsplit("\t", 1)[0] for line in scores.read_text().splitlines()[1:]] == rows
    assert main(["evaluate", str(scores), *common]) == 0
    assert "3 queries, 9 pairs" in capsys.readouterr().out
