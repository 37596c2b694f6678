"""The print style all figures share: fonts, log axes with direct ticks, labels at line ends, bytes that never
change."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, NullFormatter, NullLocator

from .palette import GRID, INK, MUTED, size_labels

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs everywhere
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "inductive-bias-study",  # element ids are a function of the drawing alone
    "svg.fonttype": "path",
}

_ERROR_TICKS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
_FINE_ERROR_TICKS = tuple(
    round(mantissa * 10.0**exponent, 6)
    for exponent in (-4, -3, -2, -1, 0)
    for mantissa in (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
)


@contextmanager
def print_style() -> Iterator[None]:
    """Matplotlib's settings for the figures of a report, and the caller's own afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that belongs to no window and no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


DPI = 200


def png_bytes(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as PNG, without date or program version. Its layout is fixed by this."""
    with print_style():
        _lay_out(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()


def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG, without date or program version. Its layout is fixed by this."""
    with print_style():
        _lay_out(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
        return buffer.getvalue()


def _lay_out(figure: Figure) -> None:
    """Lays a figure out, once: for one that has a layout engine, `savefig` draws everything twice, every time."""
    if (engine := figure.get_layout_engine()) is not None:
        dpi = figure.get_dpi()
        figure.set_dpi(DPI)  # texts are measured in whole pixels
        engine.execute(figure)
        figure.set_dpi(dpi)
        figure.set_layout_engine(None)


def error_axis(axes: Axes, errors: Iterable[float], *, which: str = "y", ceiling: float = 1.0) -> None:
    """A logarithmic axis of error rates in percent, fitted to `errors`."""
    known = np.array([error for error in errors if math.isfinite(error) and error > 0])
    low, high = (known.min() / 1.25, min(known.max() * 1.2, 1.05 * ceiling)) if len(known) else (0.01, ceiling)
    low = min(low, high / 1.6)
    ticks = [tick for tick in _ERROR_TICKS if low <= tick <= high * 1.001]
    if len(ticks) < 3:
        ticks = [tick for tick in _FINE_ERROR_TICKS if low <= tick <= high * 1.001]
    if which == "x" and high / low > 100:  # labels side by side need more room than labels one above the other
        ticks = [tick for tick in ticks if f"{tick:.0e}"[0] in "15"]
    elif which == "x" and len(ticks) > 6:
        ticks = ticks[::2]
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    (axes.set_ylim if which == "y" else axes.set_xlim)(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.2g}%" if value < 1 else "100%"))


def size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis of training-set sizes with the sizes themselves as ticks, thinned beyond nine."""
    sizes = sorted(set(sizes))
    shown = sizes[:: math.ceil(len(sizes) / 9)]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(shown, size_labels(shown))
    axes.xaxis.set_minor_formatter(NullFormatter())
    margin = 1.15 if len(sizes) > 1 else 2.0
    axes.set_xlim(sizes[0] / margin, sizes[-1] * margin)


def flops_axis(axes: Axes, flops: Sequence[float]) -> None:
    """A logarithmic axis of FLOPs with the given ticks (at most five of them), labelled like 120G or 1.9T."""
    shown = sorted(set(flops))[:: math.ceil(len(set(flops)) / 5)]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: EngFormatter(sep="")(float(f"{value:.2g}"))))


def end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]], *, gap: float = 0.055) -> None:
    """Names lines at their right ends, moved apart where they would overlap.

    Args:
        axes: with its final limits and logarithmic y.
        ends: (x, y, label, colour) per line.
        gap: smallest distance of two labels, as a fraction of the axes' height.
    """
    bottom, top = np.log(axes.get_ylim())
    heights = [float(np.clip((math.log(y) - bottom) / (top - bottom), 0, 1)) for _, y, _, _ in ends]
    order = np.argsort(heights, kind="stable")
    placed = spread_apart([heights[index] for index in order], gap)
    for index, height in zip(order, placed, strict=True):
        x, y, label, colour = ends[index]
        axes.annotate(
            label,
            xy=(x, float(np.clip(y, *axes.get_ylim()))),  # beside a point outside the axes nothing would be written
            xytext=(1.025, height),
            textcoords=axes.transAxes,
            color=colour,
            va="center",
            ha="left",
            fontweight="bold",
            fontsize=9,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),  # from the label's left end: from its middle, the line would strike others
            },
        )


def spread_apart(heights: Sequence[float], gap: float) -> list[float]:
    """The ascending `heights` with neighbours at least `gap` apart, each group centred on where it wants to be."""
    groups: list[tuple[float, int]] = []  # mean height, members
    for height in heights:
        groups.append((height, 1))
        while len(groups) > 1:
            (below, num_below), (above, num_above) = groups[-2:]
            if above - below >= gap * (num_below + num_above) / 2:
                break
            count = num_below + num_above
            groups[-2:] = [((below * num_below + above * num_above) / count, count)]
    return [mean + gap * (place - (count - 1) / 2) for mean, count in groups for place in range(count)]
