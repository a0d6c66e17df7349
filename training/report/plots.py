"""Plots of the run report, each as an inline PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

COLOURS = ["#1f6f8b", "#99a8b2", "#e6a23c", "#b4656f", "#5b8c5a"]


def curves(stages: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Loss over tokens, one panel a stage."""
    figure, axes = plt.subplots(1, len(stages), figsize=(4.2 * len(stages), 3), squeeze=False)
    for axis, (name, points) in zip(axes[0], stages.items(), strict=True):
        axis.plot([p["tokens"] / 1e6 for p in points], [p["loss"] for p in points], color=COLOURS[0])
        axis.set(title=name, xlabel="million tokens", ylabel="loss")
    return png(figure)


def comparison(models: Mapping[str, Mapping[str, Any]], metric: str, title: str) -> str:
    """One bar a model and slice, with 95% intervals."""
    slices = list(next(iter(models.values())))
    figure, axis = plt.subplots(figsize=(max(6.0, 1.1 * len(slices) + 3), 3.6))
    width = 0.8 / len(models)
    for index, (name, by_slice) in enumerate(models.items()):
        present = [(x, by_slice[s][metric]) for x, s in enumerate(slices) if _known(by_slice[s].get(metric))]
        values = [m["value"] for _, m in present]
        errors = [[v - m["low"], m["high"] - v] for v, (_, m) in zip(values, present, strict=True)]
        axis.bar(
            [x + (index - (len(models) - 1) / 2) * width for x, _ in present],
            values,
            width,
            label=name,
            color=COLOURS[index % len(COLOURS)],
            yerr=[list(side) for side in zip(*errors, strict=True)] if errors else None,
            error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
        )
    axis.set_xticks(range(len(slices)), slices, rotation=20, ha="right")
    # Not from zero: intervals of a point or two must stay visible; the tables have the values.
    lowest = min(m[metric]["low"] for by in models.values() for m in by.values() if _known(m.get(metric)))
    axis.set_ylim(bottom=0.9 * lowest)
    axis.set_title(title)
    axis.legend(fontsize=8, ncols=len(models), frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return png(figure)


def reliability(curve: Mapping[str, Any]) -> str:
    """Observed share of relevant pairs against mean predicted relevance; the diagonal is perfect."""
    figure, axis = plt.subplots(figsize=(3.6, 3.4))
    axis.plot([0, 1], [0, 1], color="#cccccc", linewidth=1)
    axis.plot(curve["predicted"], curve["observed"], marker="o", color=COLOURS[0])
    axis.set(xlabel="predicted relevance", ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
    axis.set_title(f"calibration error {curve['expected_calibration_error']:.3f}")
    return png(figure)


def _known(metric: Mapping[str, Any] | None) -> bool:
    return metric is not None and metric.get("value") is not None


def png(figure: Figure) -> str:
    """The figure as a data URL; it is closed."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
