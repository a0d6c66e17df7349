"""The model card of a bundle, written from its manifest alone."""

from __future__ import annotations

from typing import Any

from model_repo.manifest import Manifest


def model_card(manifest: Manifest) -> str:
    """Markdown: what it is, data and licence, metrics with intervals, limits, how to make it again."""
    made = manifest.provenance
    graph = manifest.graphs["fp32"]
    return "\n".join(
        [
            f"# {manifest.name} {manifest.version}",
            "",
            f"A relevance model for {', '.join(manifest.spec.field_names)} items: one query and one item in, "
            "one calibrated probability of relevance out.",
            "",
            f"- Fingerprint `{manifest.fingerprint}`",
            f"- Backbone: {manifest.family}, start weights {made.start_weights}; at most "
            f"{manifest.spec.max_tokens} tokens a pair",
            f"- Graph `{graph.file}`: {graph.precision} arithmetic, weights stored in half precision; largest "
            f"difference from PyTorch {graph.agreement.max_abs_relevance:.1e} in relevance over "
            f"{graph.agreement.pairs} golden pairs ({graph.agreement.engine})",
            f"- Needs ONNX Runtime {graph.min_onnxruntime} or later (opset {graph.opset})",
            "",
            "## Data and licence",
            "",
            f"Trained on `{made.dataset}`, licence {made.dataset_licence}. "
            "Start weights: all-MiniLM-L6-v2, Apache-2.0.",
            "",
            "## Metrics on the test split, read once",
            "",
            "AUC and F1 in points, 95% intervals by bootstrap over queries; thresholds chosen on dev.",
            "",
            *_metric_table(manifest.metrics.get("test", {})),
            *_calibration(manifest.metrics.get("expected_calibration_error")),
            "",
            "## Limits",
            "",
            f"Made for English text like that of `{made.dataset}`; on other catalogues fine-tune it. Grades and "
            "probabilities are calibrated on that data set's candidate mix, so a mix with more or fewer relevant "
            "items shifts them. Order within a query is more reliable than the absolute value.",
            "",
            "## How it was made",
            "",
            f"    {made.command}",
            "",
            f"Seed {made.seed}, {made.created}, commit {made.commit or 'unknown'}.",
            "",
        ]
    )


def _metric_table(rows: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    names = ("auc", "f1", "accuracy", "ndcg10", "mrr")
    lines = ["| slice | AUC | F1 | accuracy | nDCG@10 | MRR |", "| --- | --- | --- | --- | --- | --- |"]
    for row, metrics in rows.items():
        cells = [_cell(metrics.get(name)) for name in names]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def _calibration(error: float | None) -> list[str]:
    if error is None:
        return []
    return ["", f"Expected calibration error of the probabilities (ten equal-width bins): {error:.3f}."]


def _cell(metric: dict[str, Any] | None) -> str:
    if not metric or metric.get("value") is None:
        return "-"
    return f"{metric['value']:.4g} [{metric['low']:.4g}, {metric['high']:.4g}]"
