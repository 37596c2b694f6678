"""The roofline: what a machine allows at each arithmetic intensity, and where each family's training stands.

After Williams, Waterman and Patterson (2009, doi 10.1145/1498765.1498785): attainable FLOP/s = min(peak FLOP/s,
bandwidth x FLOPs per byte).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.arms import parse_arm
from studies.report.axes import new_figure, png_bytes, print_style, svg_bytes
from studies.report.palette import CHANCE, INK, MUTED, arm_looks

from .tables import NAMES
from .timings import flops_per_second
from .train_race import timings_of

FILLED = "study"
MARGIN = 4.0


def attainable(intensity: float, peak_flops: float, copy_bytes: float) -> float:
    """FLOP/s that the machine allows at an arithmetic intensity in FLOPs per byte."""
    return min(peak_flops, copy_bytes * intensity)


def roofline(result: Mapping[str, Any], mode: str = "machine") -> Figure:
    """The figure of one race.

    Args:
        result: what `race` returned.
        mode: `machine` or `thread`: which peaks and timings.
    """
    peak = result["peaks"][mode]
    families = result["families"]
    intensities = {family["arm"]: family["step_flops"] / family["step_bytes"] for family in families}
    ridge = peak["flops"] / peak["copy_bytes"]
    low, high = min(*intensities.values(), ridge) / MARGIN, max(*intensities.values(), ridge) * MARGIN
    with print_style():
        figure = new_figure(6.4, 4.4)
        axes = figure.add_subplot()
        _draw_roof(axes, peak, low, high, ridge)
        looks = arm_looks({family["arm"]: parse_arm(family["arm"], "").family for family in families})
        for family in families:
            look, x = looks[family["arm"]], intensities[family["arm"]]
            for timing in timings_of(family):
                if timing.mode != mode:
                    continue
                ours = timing.contender == FILLED
                axes.plot(
                    [x],
                    [flops_per_second(timing, family["train_flops_exact"]).median],
                    marker=look.marker if ours else {"lightning": "1", "timm": "2"}[timing.contender],
                    markersize=8,
                    color=look.colour,
                    markeredgecolor=look.edge if ours else look.colour,
                    linestyle="none",
                    label=look.label if ours else None,
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("training FLOPs per byte moved (bytes counted operation by operation, fp32)")
        axes.set_ylabel("FLOP/s")
        axes.set_title("Training speed under the machine's roof")
        axes.plot([], [], marker="1", color=INK, linestyle="none", label=NAMES["lightning"])
        axes.plot([], [], marker="2", color=INK, linestyle="none", label=NAMES["timm"])
        figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _draw_roof(axes: Axes, peak: Mapping[str, float], low: float, high: float, ridge: float) -> None:
    xs = np.array([low, ridge, high])
    roof = [attainable(x, peak["flops"], peak["copy_bytes"]) for x in xs]
    axes.plot(xs, roof, color=INK, linewidth=1.4)
    axes.annotate(f"matmul {_si(peak['flops'])}FLOP/s", (high, peak["flops"]), ha="right", va="bottom", fontsize=8,
                  color=MUTED)  # fmt: skip
    axes.annotate(f"copy {_si(peak['copy_bytes'])}B/s", (low, roof[0]), ha="left", va="top", fontsize=8,
                  color=MUTED, xytext=(10, 4), textcoords="offset points")  # fmt: skip
    axes.axvline(ridge, color=CHANCE, linewidth=0.7, linestyle=":")


def write_roofline(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """`roofline.png` and `roofline.svg` in a folder."""
    figure = roofline(result)
    paths = [folder / "roofline.svg", folder / "roofline.png"]
    for path, content in zip(paths, (svg_bytes(figure), png_bytes(figure)), strict=True):
        path.write_bytes(content)
    return paths


def _si(value: float) -> str:
    for unit in ("", "k", "M", "G", "T", "P"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} E"
