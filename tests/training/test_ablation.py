"""A grid at a tiny size: cells, a start in the middle, differences, the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.data import SAMPLE, short_sample
from support.tiny import tiny_checkpoint

from training.ablation import run as ablation_run
from training.ablation.grid import RECIPES, AblationConfig, Cell, cells, load_ablation
from training.ablation.report import TITLES
from training.ablation.run import open_data, read_cell, run_grid
from training.baselines import BASELINES
from training.cli import main
from training.config import ConfigError, RunConfig
from training.stages.artifacts import RunFolder
from training.stages.names import RECIPE

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs" / "ablation").glob("*.yaml"))
RUN = {
    "bundle": "tiny",
    "render": {
        "max_tokens": 48,
        "query_budget": 8,
        "role_budgets": {"title": 6, "keywords": 6, "category": 4, "body": 6},
    },
    "pretrain": {
        "optimiser": {"tokens": 2000},
        "batch_tokens": 1024,
        "weights": {"dke": 1, "icp": 0, "rcd": 1},
        "objectives": {"language": 1},
    },
    "sft": {"optimiser": {"tokens": 2500}},
}
GRID = """
title: tiny
run: {run}
seeds: [0, 1]
dev_queries: 4
test_queries: 6
cells:
  - {{variants: [full, none], label_shares: [0.5, 1.0]}}
  - {{variants: [-rcd, bm25]}}
"""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_grid_compares_full_with_none_over_seeds(path: Path) -> None:
    grid = load_ablation(path)
    assert {"full", "none"} <= {cell.variant for cell in cells(grid)}
    assert len(grid.seeds) >= 2


def test_cells_differ_in_what_their_name_says() -> None:
    run = RunConfig.model_validate(RUN)
    grid = AblationConfig(title="t", run=run, seeds=(7,), cells=({"variants": ("full",)},))  # type: ignore[arg-type]
    assert Cell(7, 1.0, "full").config(grid) == run.model_copy(update={"seed": 7})
    assert Cell(0, 1.0, "-rcd").config(grid).pretrain.weights == {"dke": 1.0, "icp": 0.0, "rcd": 0.0}
    assert Cell(0, 1.0, "joint-only").config(grid).pretrain.objectives == {"joint": 1.0}
    assert Cell(0, 1.0, "rcd-only").config(grid).pretrain.weights == {"dke": 0.0, "icp": 0.0, "rcd": 1.0}
    assert Cell(0, 0.05, "none").config(grid).sft.label_share == 0.05
    for longer in ("none-longer", "sbert-cross-encoder-longer"):
        assert Cell(0, 1.0, longer).config(grid).sft.optimiser.tokens == 4500


def test_every_variant_has_a_title() -> None:
    assert TITLES.keys() == RECIPES.keys() | BASELINES.keys()


def test_untrained_baselines_have_one_cell() -> None:
    block = {"variants": ("bm25", "none"), "label_shares": (0.5, 1.0)}
    grid = AblationConfig(title="t", run=RunConfig.model_validate(RUN), seeds=(3, 4), cells=(block,))  # type: ignore[arg-type]
    names = [cell.name for cell in cells(grid)]
    assert sorted(names) == sorted(
        [
            "bm25.labels100.seed3",
            *(f"none.labels{share}.seed{seed}" for share in (50, 100) for seed in (3, 4)),
        ]
    )


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{variants: [fulll]}", "fulll.*no variants; there are full"),
        ("{variants: [full], label_shares: [5]}", "share"),
    ],
)
def test_a_wrong_grid_is_refused_by_name(tmp_path: Path, block: str, message: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(f"title: t\nrun: {json.dumps(RUN)}\ncells: [{block}]\n")
    with pytest.raises(ConfigError, match=message):
        load_ablation(path)


def test_a_seed_that_the_grid_lacks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grid.yaml").write_text(GRID.format(run=json.dumps(RUN)))
    arguments = [
        "--config",
        str(tmp_path / "grid.yaml"),
        "--data",
        str(SAMPLE),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["ablate", *arguments, "--seeds", "7"]) == 1
    assert "--seeds: [7]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed after the third cell, started again, and started once more when nothing is left to do."""
    root = tmp_path_factory.mktemp("ablation")
    data = short_sample(root / "data")
    (root / "grid.yaml").write_text(
        GRID.format(run=json.dumps(RUN | {"start": str(tiny_checkpoint(root / "checkpoint"))}))
    )
    arguments = [
        "ablate",
        "--config",
        str(root / "grid.yaml"),
        "--data",
        str(data),
        "--out",
        str(root / "out"),
    ]
    stored = ablation_run._store
    calls = []

    def store_three(*args: object) -> None:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        stored(*args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation_run, "_store", store_three)
        assert main(arguments) == 130
    assert len(list((root / "out" / "cells").glob("*.json"))) == 3
    before = {path: path.stat().st_mtime_ns for path in (root / "out" / "cells").iterdir()}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert main([*arguments, "--seeds", "1"]) == 0
    return root / "out"


def test_every_cell_leaves_a_record_and_scores(finished: Path) -> None:
    grid = load_ablation(finished.parent / "grid.yaml")
    for cell in cells(grid):
        found = read_cell(finished, cell)
        assert found
        record, scores = found
        assert record["label_share"] == cell.label_share
        assert len(np.unique(scores.test)) > 10
        if cell.variant in ("full", "-rcd"):
            assert record["pretrain"]["tokens"] >= 2000
            assert record["pretrain"]["seconds"] > 0
        assert ("sft" in record) == (cell.variant != "bm25")
        assert ("rcd" in record.get("corpora", {})) == (cell.variant == "full")


def test_label_shares_start_from_one_pretraining(finished: Path) -> None:
    pretrained = sorted(path.parent.name for path in (finished / "work").glob("*/pretrain.pt"))
    assert pretrained == ["-rcd.seed0", "-rcd.seed1", "full.seed0", "full.seed1"]


def test_the_result_compares_full_with_the_others_at_equal_labels(finished: Path) -> None:
    result = json.loads((finished / "ablation.json").read_text())
    assert result["missing"] == []
    assert result["test"]["queries"] == 6
    compared = {(record["variant"], record["label_share"]): record for record in result["differences"]}
    assert compared.keys() == {("none", 1.0), ("none", 0.5), ("-rcd", 1.0), ("bm25", 1.0), ("bm25", 0.5)}
    values = {
        (row["variant"], row["label_share"]): row["slices"]["all"]["auc"]["value"] for row in result["rows"]
    }
    difference = compared["none", 0.5]["slices"]["all"]["auc"]
    assert difference["value"] == pytest.approx(values["full", 0.5] - values["none", 0.5])
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert 0 < difference["p_value"] <= 1


def test_rows_tell_calibration_and_the_seconds_of_each_stage(finished: Path) -> None:
    rows = json.loads((finished / "ablation.json").read_text())["rows"]
    by_variant = {row["variant"]: row for row in rows}
    assert all(0 <= row["calibration_error"] <= 1 for row in rows)
    assert by_variant["full"]["spent"]["pretrain_seconds"] > 0
    assert by_variant["none"]["spent"]["pretrain_seconds"] is None
    assert by_variant["none"]["spent"]["sft_seconds"] > 0
    assert by_variant["bm25"]["spent"]["sft_seconds"] is None
    assert by_variant["bm25"]["spent"]["wall_s"] is not None


def test_a_cell_whose_record_was_deleted_is_made_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = load_ablation(finished.parent / "grid.yaml")
    cell = Cell(0, 0.5, "none")
    work = finished / "work" / cell.name
    assert not list(work.glob(f"{RECIPE}.*"))
    # An earlier version left the record of the stage without its weights.
    (work / f"{RECIPE}.json").write_text("{}")
    before = read_cell(finished, cell)
    (finished / "cells" / f"{cell.name}.json").unlink()
    run_grid(grid, open_data(grid, finished.parent / "data"), finished, seeds=[0])
    after = read_cell(finished, cell)
    assert before
    assert after
    assert np.array_equal(before[1].test, after[1].test)


def test_two_processes_with_different_seeds_share_a_folder_and_with_equal_ones_do_not(
    finished: Path,
) -> None:
    grid = load_ablation(finished.parent / "grid.yaml")
    dataset = open_data(grid, finished.parent / "data")
    cell, other = Cell(0, 1.0, "none"), Cell(1, 1.0, "none")
    for one in (cell, other):
        (finished / "cells" / f"{one.name}.json").unlink()
    with RunFolder(finished / "work" / cell.name, cell.config(grid)).training():
        run_grid(grid, dataset, finished, seeds=[1])
        assert read_cell(finished, other)
        with pytest.raises(ConfigError, match=rf"{cell.name}: another process trains there"):
            run_grid(grid, dataset, finished, seeds=[0])
    run_grid(grid, dataset, finished, seeds=[0])


def test_the_page_shows_every_row_and_opens_without_a_network(finished: Path) -> None:
    page = (finished / "ablation.html").read_text()
    for title in ("full", "without RCD", "SFT alone", "BM25"):
        assert f"<td>{title}</td>" in page
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page.replace("http://www.w3.org", "")
