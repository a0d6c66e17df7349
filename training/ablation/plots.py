"""Plots of an ablation, each as an inline PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from training.report.plots import COLOURS, png

Record = Mapping[str, Any]


def learning_curves(
    rows: Sequence[Record], titles: Mapping[str, str], metric: tuple[str, str], slices: Mapping[str, str]
) -> str:
    """A metric (key, title) over the share of labels, one panel a slice; one share alone is a dashed line."""
    figure, axes = plt.subplots(1, len(slices), figsize=(4.1 * len(slices), 3.4), squeeze=False)
    shares = sorted({100 * row["label_share"] for row in rows})
    for axis, (name, title) in zip(axes[0], slices.items(), strict=True):
        for index, (variant, label) in enumerate(titles.items()):
            points = sorted(
                (100 * row["label_share"], index, row["slices"][name][metric[0]])
                for row in rows
                if row["variant"] == variant and _known(row, name, metric[0])
            )
            _curve(axis, [(share, value) for share, _, value in points], index, label)
        axis.set(xscale="log", title=title, xlabel="labelled queries used")
        axis.set_xticks(shares, [f"{share:g}%" for share in shares])
        axis.minorticks_off()
    axes[0][0].set_ylabel(metric[1])
    axes[0][0].legend(fontsize=8, frameon=False)
    return png(figure)


def _known(row: Record, name: str, metric: str) -> bool:
    return row["slices"].get(name, {}).get(metric, {}).get("value") is not None


def _curve(axis: Axes, points: Sequence[tuple[float, Record]], index: int, label: str) -> None:
    colour = COLOURS[index % len(COLOURS)]
    if len(points) == 1:
        axis.axhline(points[0][1]["value"], color=colour, linestyle="--", linewidth=1, label=label)
    elif points:
        values = [value["value"] for _, value in points]
        errors = [
            [value["value"] - value["low"] for _, value in points],
            [value["high"] - value["value"] for _, value in points],
        ]
        # Side by side on the logarithmic axis, or the bars hide each other.
        places = [share * 1.04**index for share, _ in points]
        axis.errorbar(
            places, values, errors, color=colour, marker="o", capsize=2, elinewidth=0.8, label=label
        )


def contributions(
    differences: Sequence[Record],
    titles: Mapping[str, str],
    metric: tuple[str, str],
    slices: Mapping[str, str],
) -> str:
    """The full recipe minus each of `titles`, one panel a slice, one colour a share of labels; right is better."""
    shares = sorted({record["label_share"] for record in differences})
    height = 0.9 + 0.24 * len(titles) * max(2, len(shares))
    figure, axes = plt.subplots(
        1, len(slices), figsize=(4.1 * len(slices), height), sharey=True, squeeze=False
    )
    places = {variant: place for place, variant in enumerate(titles)}
    for axis, (name, title) in zip(axes[0], slices.items(), strict=True):
        for record in differences:
            value = record["slices"].get(name, {}).get(metric[0])
            if record["variant"] not in places or value is None or value["value"] is None:
                continue
            number = shares.index(record["label_share"])
            place = places[record["variant"]] + 0.18 * (number - (len(shares) - 1) / 2)
            colour = COLOURS[number % len(COLOURS)]
            axis.plot([value["low"], value["high"]], [place, place], color=colour)
            axis.plot(value["value"], place, "o", color=colour, markersize=4)
        axis.axvline(0, color="#999999", linewidth=0.8)
        axis.set(title=title, xlabel=f"full recipe minus the other, {metric[1]}")
    axes[0][0].set_yticks(range(len(titles)), titles.values())
    axes[0][0].set_ylim(len(titles) - 0.5, -0.5)
    for number, share in enumerate(shares):
        colour = COLOURS[number % len(COLOURS)]
        axes[0][0].plot([], [], "o-", color=colour, markersize=4, label=f"{100 * share:g}% of labels")
    figure.legend(
        loc="lower center", bbox_to_anchor=(0.5, -0.12), ncols=len(shares), fontsize=8, frameon=False
    )
    figure.tight_layout()
    return png(figure)
