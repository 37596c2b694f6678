"""The tables of a report, as text that prints the same in markdown and in HTML.

Every function takes the table of records (`studies.records.records_frame`) and returns a `Table`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from studies.analysis.jackknife import FEWEST_FOR_INTERVAL
from studies.analysis.of_records import Rule, curve_points, left_out_cells
from studies.analysis.summary import data_curves
from studies.counts import counted

from .card import StudyCard
from .palette import looks_of

EXACT_FLOPS_TOLERANCE = 0.05  # PROTOCOL 2: beyond this the report says so


@dataclass(frozen=True)
class Table:
    """Cells of text under column names; the first `num_label_columns` columns are labels, the others align right.

    `prose` cells are wrapped and align left. Of a `wrapped` table only the labels are, so that it fits on a page.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    num_label_columns: int = 1
    prose: bool = False
    wrapped: bool = False

    def markdown(self) -> str:
        """The table as GitHub markdown, with its title and note."""
        rule = ["---"] * self.num_label_columns + ["---:"] * (len(self.columns) - self.num_label_columns)
        lines = [_pipe_row(self.columns), _pipe_row(rule), *map(_pipe_row, self.rows)]
        return "\n".join([f"### {self.title}", "", *lines, *(["", self.note] if self.note else [])]) + "\n"

    def html(self) -> str:
        """The table as HTML, everything escaped."""

        def row(tag: str, cells: Iterable[str]) -> str:
            parts = []
            for index, cell in enumerate(cells):
                kind = ' class="label"' if index < self.num_label_columns else ""
                parts.append(f"<{tag}{kind}>{html.escape(cell)}</{tag}>")
            return f"<tr>{''.join(parts)}</tr>"

        body = "\n".join(row("td", cells) for cells in self.rows)
        kind = ' class="prose"' if self.prose else ' class="wrapped"' if self.wrapped else ""
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        return (
            f'<div class="table"><h3>{html.escape(self.title)}</h3><div class="scroll"><table{kind}>\n'
            f"<thead>{row('th', self.columns)}</thead>\n<tbody>\n{body}\n</tbody></table></div>{note}</div>"
        )


def _pipe_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def percent(mean: float, half_width: float = math.nan) -> str:
    """An error rate with the half-width of its interval, in percent: `21.2 ± 1.3`."""
    digits = 1 if mean >= 0.01 else 2
    text = f"{100 * mean:.{digits}f}"
    return text if math.isnan(half_width) else f"{text} ± {100 * half_width:.{digits}f}"


TWO_REPLICATES = "Two replicates carry no useful interval: none is shown."


def mean_text(curve: pd.Series[float], *, accuracy: bool = False) -> str:
    """A mean error in percent with the half-width of its interval, where more than two replicates make one.

    Args:
        curve: `mean`, `half_width` and `num_replicates`.
        accuracy: what is classified correctly instead of what is not.
    """
    half_width = float(curve["half_width"]) if curve["num_replicates"] >= FEWEST_FOR_INTERVAL else math.nan
    mean = float(curve["mean"])
    return percent(1 - mean if accuracy else mean, half_width)


def error_table(frame: pd.DataFrame, rule: Rule = "selected", x: str = "num_train") -> Table:
    """Test error per arm and size, in percent, mean ± half-width of the 95% t-interval over replicates.

    Args:
        frame: the table of records.
        rule: which branch of each cell is read.
        x: which size, `num_train` or `num_pretrain`.
    """
    curves = data_curves(frame, rule, x=x)
    sizes = sorted(set(curves[x]))
    failed = frame[frame["status"].isin(["failed", "invalid"])]
    lacking = set(zip(failed["arm"], failed[x], strict=True))
    rows = []
    for arm, look in looks_of(frame).items():
        cells = curves[curves["arm"] == arm].set_index(x)
        texts = []
        for size in sizes:
            text = mean_text(cells.loc[size]) if size in cells.index else "–"
            text += " †" if size in cells.index and cells["num_diverged"].loc[size] else ""
            texts.append(text + (" ‡" if (arm, size) in lacking else ""))
        counts = cells["num_replicates"]
        rows.append((look.label, *texts, _extent(counts.tolist()) if len(counts) else "0"))
    note = "Percent of test images misclassified: mean over replicates ± half-width of the 95% t-interval of the mean."
    if (curves["num_replicates"] == 1).any():
        note += " A single replicate has no interval."
    if (curves["num_replicates"] == FEWEST_FOR_INTERVAL - 1).any():
        note += f" {TWO_REPLICATES}"
    if (curves["num_diverged"] > 0).any():
        note += " † contains a diverged run, counted at chance."
    if lacking:
        note += " ‡ lacks a run that failed."
    name = {"selected": "the branch chosen on validation", "full_budget": "the branch at the full budget C"}[rule]
    return Table(
        name=f"test_error_{rule}",
        title=f"Test error of {name}",
        columns=("Arm", *(size_heading(size, x) for size in sizes), "Replicates"),
        rows=tuple(rows),
        note=note,
    )


def size_heading(size: int, x: str) -> str:
    """What stands over a column of one size."""
    if x == "num_train":
        return f"N = {size:,}"
    return f"pretrained on {size:,}" if size else "from scratch"


COST_COLUMNS = frozenset(
    {
        *("arm", "family", "variant", "cell_id", "status", "selected", "branch", "diverged", "test_error", "num_test"),
        *("train_flops", "train_flops_exact", "planned_train_flops", "train_seconds", "device"),
        *("num_parameters", "forward_flops"),
    }
)
MISSING_COLUMNS = frozenset(
    {
        *("arm", "cell_id", "num_train", "num_pretrain", "replicate", "start", "status", "reason", "selected"),
        *("branch", "test_error", "num_test"),
    }
)
"""Of the table of records, what a table is made from: copying the others takes longer than all else."""


def cost_table(frame: pd.DataFrame) -> Table:
    """What a run of each arm costs, planned and counted, and where exact costs part."""
    frame = frame[[column for column in frame.columns if column in COST_COLUMNS]]
    full = curve_points(frame, "full_budget")
    # A branch that diverged has executed the steps up to there alone, which is not what a run costs.
    whole, whole_branches = (rows[~rows["diverged"].astype(bool)] for rows in (full, frame[frame["branch"].notna()]))
    exact = whole.groupby("arm")["train_flops_exact"].mean()
    rows = []
    for arm, look in looks_of(frame).items():
        every, cells = full[full["arm"] == arm], whole[whole["arm"] == arm]
        if every.empty:
            continue
        measured = ("–",) * 4
        if len(cells):
            branches = whole_branches[whole_branches["cell_id"].isin(cells["cell_id"])]
            ratio = branches["train_flops"] / branches["planned_train_flops"]
            below = 1 - float(exact[arm]) / float(exact.max())
            flagged = below > EXACT_FLOPS_TOLERANCE
            where = sorted(cells["device"].dropna().unique())
            measured = (
                _span(cells["train_flops"], "{:.3g}"),
                f"{ratio.min():.4f} – {ratio.max():.4f}",
                (f"−{100 * below:.1f}%" if below >= 0.0005 else "the same") + (" (differs)" if flagged else ""),
                _span(cells["train_seconds"], "{:.0f}") + (f" on {', '.join(where)}" if where else ""),
            )
        parameters = _span(every["num_parameters"], "{:,.0f}")
        rows.append((look.label, parameters, _span(every["forward_flops"] / 1e6, "{:.2f} M"), *measured))
    left_out = " Diverged runs, which ended early, are left out." if len(whole) < len(full) else ""
    return Table(
        name="cost",
        title="Cost of a run at the full budget",
        columns=(
            "Arm",
            "Parameters",
            "Forward FLOPs per image",
            "Training FLOPs",
            "Counted / planned FLOPs",
            "Exact FLOPs against the costliest arm",
            "Seconds per cell (packed)",
        ),
        rows=tuple(rows),
        note="Training FLOPs are 3 × forward × images trained on; the exact count leaves out the input gradient of the "
        "first layer, which nobody computes. Counted / planned is over all branches of all cells. Seconds are of "
        f"the whole cell, several of which may share the machine: not a measurement of speed.{left_out}",
    )


def settings_table(frame: pd.DataFrame) -> Table:
    """Hyper-parameters of every arm."""
    numbers, names = ["learning_rate", "weight_decay", "batch_size"], ["augmentation", "permutation", "precision"]
    of_cells, rows = frame[["arm", *numbers, *names]], []
    for arm, look in looks_of(frame).items():
        cells = of_cells[of_cells["arm"] == arm]
        values = [", ".join(f"{value:g}" for value in sorted(cells[column].unique())) for column in numbers]
        texts = [", ".join(sorted(cells[column].unique())) for column in names]
        rows.append((look.label, *values, *texts))
    return Table(
        name="settings",
        title="Settings of every arm",
        columns=("Arm", "Learning rate", "Weight decay", "Batch", "Augmentation", "Permutation", "Precision"),
        rows=tuple(rows),
    )


def missing_table(frame: pd.DataFrame, card: StudyCard) -> Table:
    """Cells that are not in the curves, or are but with a reservation: each with its reason."""
    frame = frame[[column for column in frame.columns if column in MISSING_COLUMNS]]
    rows: list[tuple[str, ...]] = []
    pretrained, of_cell = has_starts(frame), frame.drop_duplicates("cell_id").set_index("cell_id")["num_pretrain"]

    def begun(cell_id: str) -> tuple[str, ...]:
        return (pretrained_text(float(of_cell.loc[cell_id])),) if pretrained else ()

    points = curve_points(frame)
    diverged = points[points["status"] == "diverged"]
    reasons = [f"diverged, at chance where it did: {text}".rstrip(": ") for text in diverged["reason"]]
    diverged = diverged.assign(reason=reasons)
    for row in [*left_out_cells(frame).to_dict("records"), *diverged.to_dict("records")]:
        of_row = (str(row["replicate"]), row["cell_id"], row["reason"])
        rows.append((row["arm"], *begun(row["cell_id"]), f"{row['num_train']:,}", *of_row))
    cells = frame.drop_duplicates("cell_id")
    absent_of_grid = absent_cells(frame, card.x)
    absence = "no record that can be read" if card.num_damaged else "not trained yet"
    fine_tuned = ", ".join(f"{size:,}" for size in sorted(set(cells["num_train"]))) if card.x == "num_pretrain" else ""
    for arm, size, replicate in absent_of_grid:
        sizes = (f"{size:,}", fine_tuned) if fine_tuned else (*(("",) if pretrained else ()), f"{size:,}")
        rows.append((arm, *sizes, str(replicate), "", absence))
    absent = card.num_cells - len(cells) - len(absent_of_grid)
    if absent > 0:
        which = "that can be read" if card.num_damaged else "yet"
        told = f"{counted(absent, 'more planned cell')} {'has' if absent == 1 else 'have'} no record {which}"
        rows.append(("other", *(("",) if pretrained else ()), "", "", "", told))
    return Table(
        name="left_out",
        title="Cells that failed, diverged, were left out or not trained",
        columns=("Arm", *(("Pretrained on",) if pretrained else ()), "N", "Replicate", "Cell", "Reason"),
        rows=tuple(rows)
        or (("none", *(("",) if pretrained else ()), "", "", "", "every planned cell is in the curves"),),
        num_label_columns=6 if pretrained else 5,
        prose=True,
    )


def partial_table(rows: Sequence[tuple[str, str, str]]) -> Table:
    """What single answers leave out, as (answer, what, reason)."""
    return Table(
        name="left_out_of_answers",
        title="What single answers leave out",
        columns=("Answer", "Left out", "Reason"),
        rows=tuple(rows),
        num_label_columns=3,
        prose=True,
    )


def seeds_table(frame: pd.DataFrame) -> Table:
    """Seeds and data of every replicate."""
    seeds = ["subset_seed", "order_seed", "initialization_seed", "augmentation_seed"]
    hashes = ["validation_hash", "train_checksum", "test_checksum"]
    rows = []
    for replicate, cells in frame[["replicate", *seeds, *hashes]].groupby("replicate", sort=True):
        numbers = [", ".join(str(value) for value in sorted(cells[column].unique())) for column in seeds]
        digests = [", ".join(sorted({text[:12] for text in cells[column].unique() if text})) for column in hashes]
        rows.append((str(replicate), *numbers, *digests))
    return Table(
        name="seeds",
        title="Seeds and data of every replicate",
        columns=("Replicate", "Subset", "Order", "Initialisation", "Augmentation", "Validation", "Train", "Test"),
        rows=tuple(rows),
        note="The last three are the first 12 characters of SHA-256 hashes. All arms of a replicate share seeds, "
        "subset, validation and test images.",
        num_label_columns=8,
    )


def cells_table(frame: pd.DataFrame) -> Table:
    """Every cell that is in the curves, with the hashes that name its subset and its weights."""
    rows, pretrained = [], has_starts(frame)
    columns = ["arm", "num_pretrain", "num_train", "replicate", "branch", "test_error", "epochs"]
    columns += ["subset_hash", "weights_sha256", "cell_id"]
    points = curve_points(frame[[*columns, "status", "selected", "num_test"]])
    for arm, start, size, replicate, branch, error, epochs, subset, weights, cell_id in zip(
        *(points[column].tolist() for column in columns), strict=True
    ):
        begun = (pretrained_text(float(start)),) if pretrained else ()
        numbers = f"{size:,}", str(replicate), f"{branch:g} C", percent(error), f"{epochs:.3g}"
        rows.append((arm, *begun, *numbers, subset[:12], weights[:12], cell_id))
    return Table(
        name="cells",
        title="Every cell in the curves",
        columns=(
            "Arm",
            *(("Pretrained on",) if pretrained else ()),
            *("N", "Replicate", "Branch", "Test error %", "Epochs", "Subset", "Weights", "Cell"),
        ),
        rows=tuple(rows),
        num_label_columns=10 if pretrained else 9,
    )


def has_starts(frame: pd.DataFrame) -> bool:
    """Whether any arm begins from trained weights, so that cells differ in their pretraining images too."""
    return bool((frame["start"] != "").any())


def pretrained_text(size: float) -> str:
    """A number of pretraining images; 0 is from scratch, NaN is not known."""
    return "not known" if math.isnan(size) else f"{size:,.0f}" if size else "from scratch"


def absent_cells(frame: pd.DataFrame, x: str = "num_train") -> list[tuple[str, int, int]]:
    """Gaps of the grid: (arm, size, replicate) without a record although the arm has this replicate at another size.

    Args:
        frame: the table of records.
        x: which size; what is trained from scratch has no other `num_pretrain` than 0.
    """
    cells = frame.drop_duplicates("cell_id").dropna(subset=[x])
    seen = set(zip(cells["arm"], cells[x], cells["replicate"], strict=True))
    return [
        (str(arm), int(size), int(replicate))
        for arm, rows in cells.groupby("arm")
        for size in sorted(set(cells.loc[(cells[x] > 0) == (rows[x] > 0).any(), x]))
        for replicate in sorted(set(rows["replicate"]))
        if (arm, size, replicate) not in seen
    ]


def _span(values: pd.Series[float], form: str) -> str:
    """One value, or the smallest and the largest."""
    low, high = form.format(values.min()), form.format(values.max())
    return low if low == high else f"{low} – {high}"


def _extent(counts: list[int]) -> str:
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
