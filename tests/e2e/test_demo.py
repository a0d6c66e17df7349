"""`make demo` as a new user runs it: trains, beats the baselines, serves, shows a table, ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_demo_trains_a_model_that_beats_the_baselines_and_serves_it(tmp_path: Path) -> None:
    for name in ("training", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {**os.environ, "DEMO_EXIT": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "training.demo"]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Test queries through POST /relevance" in result.stdout
    metrics = json.loads((tmp_path / "runs/demo/metrics.json").read_text())
    for baseline in ("bm25", "minilm-cosine"):
        for metric in ("auc", "ndcg10"):
            ours, theirs = (metrics["models"][name]["all"][metric]["value"] for name in ("cprm", baseline))
            assert ours > theirs, (baseline, metric)
    assert (tmp_path / "runs/demo/report.html").exists()
    assert (tmp_path / "runs/bundles/miniapps/1/manifest.json").exists()
