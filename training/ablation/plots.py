"""Plots of an ablation, each as an inline PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import pyplot as plt

from training.report.plots import COLOURS, png

Record = Mapping[str, Any]


def learning_curves(
    rows: Sequence[Record], variants: Sequence[str], metric: str, slices: Mapping[str, str]
) -> str:
    """A metric over the share of labels, one panel a slice; untrained baselines as dashed lines."""
    figure, axes = plt.subplots(1, len(slices), figsize=(4.1 * len(slices), 3.4), squeeze=False)
    for axis, (name, title) in zip(axes[0], slices.items(), strict=True):
        for index, variant in enumerate(variants):
            points = _points(rows, variant, metric, name)
            colour = COLOURS[index % len(COLOURS)]
            if not points:
                continue
            if len(points) == 1:
                axis.axhline(points[0][1]["value"], color=colour, linestyle="--", linewidth=1, label=variant)
                continue
            values = [value["value"] for _, value in points]
            errors = [
                [value["value"] - value["low"] for _, value in points],
                [value["high"] - value["value"] for _, value in points],
            ]
            axis.errorbar(
                [share for share, _ in points],
                values,
                errors,
                color=colour,
                marker="o",
                capsize=2,
                label=variant,
            )
        axis.set(xscale="log", title=title, xlabel="% of labelled queries")
    axes[0][0].legend(fontsize=8, frameon=False)
    return png(figure)


def _points(rows: Sequence[Record], variant: str, metric: str, name: str) -> list[tuple[float, Record]]:
    found = [
        (100 * row["label_share"], row["slices"][name][metric])
        for row in rows
        if row["variant"] == variant and row["slices"].get(name, {}).get(metric, {}).get("value") is not None
    ]
    return sorted(found, key=lambda point: point[0])


def contributions(differences: Sequence[Record], metric: str, slices: Mapping[str, str]) -> str:
    """The full recipe minus each other one, one panel a slice, one colour a share of labels; right is better."""
    variants = list(dict.fromkeys(record["variant"] for record in differences))
    shares = sorted({record["label_share"] for record in differences})
    height = 0.6 + 0.17 * len(variants) * max(2, len(shares))
    figure, axes = plt.subplots(
        1, len(slices), figsize=(4.1 * len(slices), height), sharey=True, squeeze=False
    )
    for axis, (name, title) in zip(axes[0], slices.items(), strict=True):
        for record in differences:
            value = record["slices"].get(name, {}).get(metric)
            if value is None or value["value"] is None:
                continue
            nudge = 0.15 * (shares.index(record["label_share"]) - (len(shares) - 1) / 2)
            colour = COLOURS[shares.index(record["label_share"]) % len(COLOURS)]
            axis.plot(
                [value["low"], value["high"]], [variants.index(record["variant"]) + nudge] * 2, color=colour
            )
            axis.plot(
                value["value"], variants.index(record["variant"]) + nudge, "o", color=colour, markersize=4
            )
        axis.axvline(0, color="#999999", linewidth=0.8)
        axis.set(title=title, yticks=range(len(variants)), yticklabels=[f"full minus {v}" for v in variants])
    axes[0][0].invert_yaxis()
    for index, share in enumerate(shares):
        axes[0][-1].plot(
            [], [], "o-", color=COLOURS[index % len(COLOURS)], label=f"{100 * share:g}% of labels"
        )
    axes[0][-1].legend(fontsize=8, frameon=False)
    return png(figure)
