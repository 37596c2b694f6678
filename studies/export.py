"""The long table of records as files for other programs, and the page that documents its columns."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from .few_shot_results import FEW_SHOT_COLUMNS
from .files import write_atomically, write_text
from .probes.probe_results import PROBE_COLUMNS
from .records import COLUMNS, INCIDENTAL_COLUMNS, Record, records_frame

Format = Literal["parquet", "csv"]


def export_table(
    records: Iterable[Record],
    folder: Path,
    formats: Sequence[Format] = ("parquet", "csv"),
    *,
    name: str = "records",
    tier: str | None = None,
) -> tuple[Path, ...]:
    """Writes the long table, a row per cell and branch, every column of `COLUMNS`, the same rows in every format.

    Args:
        records: in any order.
        folder: made if absent.
        formats: `parquet` keeps types; `csv` writes floats so that they read back exactly.
        name: file name without suffix.
        tier: the study's, which the names of arms do not mention.

    Returns:
        The files in the order of `formats`.

    Raises:
        ValueError: a format is unknown.
    """
    return _written(records_frame(records, tier), folder, formats, name)


def export_frame(
    frame: pd.DataFrame, folder: Path, formats: Sequence[Format] = ("parquet", "csv"), *, name: str
) -> tuple[Path, ...]:
    """Writes a table over a study besides that of its records: its few-shot evaluations, or what its probes found.

    Args:
        frame: `studies.few_shot_results.few_shot_frame` or `studies.probes.probe_frame`.
        folder: as of `export_table`, like the others.
        formats: see there.
        name: file name without suffix.

    Returns:
        The files in the order of `formats`.

    Raises:
        ValueError: a format is unknown.
    """
    return _written(frame, folder, formats, name)


def _written(table: pd.DataFrame, folder: Path, formats: Sequence[Format], name: str) -> tuple[Path, ...]:
    frame, paths = table.convert_dtypes(), []
    for form in formats:
        path = folder / f"{name}.{form}"
        if form == "parquet":
            buffer = io.BytesIO()
            frame.to_parquet(buffer, index=False)
            content = buffer.getvalue()
            write_atomically(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
        elif form == "csv":
            write_text(path, frame.to_csv(index=False, lineterminator="\n"))
        else:
            raise ValueError(f"format {form!r} is unknown: expected parquet or csv")
        paths.append(path)
    return tuple(paths)


def columns_page() -> str:
    """The text of docs/records.md, made from `COLUMNS`, `FEW_SHOT_COLUMNS` and `PROBE_COLUMNS`."""
    rows = [
        "| `{}` | {} | {} |".format(name, meaning.replace("|", "\\|"), "yes" if name in INCIDENTAL_COLUMNS else "")
        for name, meaning in COLUMNS.items()
    ]
    parts = [_PREFACE, *rows]
    for preface, columns in ((_FEW_SHOT_PREFACE, FEW_SHOT_COLUMNS), (_PROBE_PREFACE, PROBE_COLUMNS)):
        parts += [preface, *("| `{}` | {} |".format(name, told.replace("|", "\\|")) for name, told in columns.items())]
    return "\n".join([*parts, ""])


_PREFACE = """# Records

A cell is one training run of one architecture on one training set with one setting of its seeds. When it ends it
leaves a folder `cells/<cell id>/` in the store:

- `record.json`, everything known of the cell, with a checksum of its content (`sha256`, of the record as JSON with
  sorted keys and no spaces) and one of the file's bytes above it (`bytes_sha256`), which is quicker to verify;
- `predictions.npz`, for every branch and test image the predicted class and the log-probability of the truth.

`study export` writes all records of a study as one table in Parquet and in CSV, a row per cell and branch; in Python
`studies.records_frame(studies.load_records())` is the same table; where arms are of several tiers, name the study's:
`records_frame(records, "nano")`. A cell that failed has one row without a branch. To get one row per cell, take the
rows where `selected` is true (the branch chosen on validation, the primary number) or those where `branch` is 1 (the
full budget).

`study bundle` packs plan, records, predictions and report of a study into one file with a checksum for each part, and
`study verify` checks such a file; unpacked it is a store again.

Columns marked *may differ* depend on where, when and in which company the cell was trained. All others are functions of
the cell: train it twice on one machine, both times by the loop of a lone cell or both times in lanes, and on a CPU they
are equal bit for bit, whatever the number of lanes.

This page is generated from `studies.records.COLUMNS`, `studies.few_shot_results.FEW_SHOT_COLUMNS` and
`studies.probes.probe_results.PROBE_COLUMNS`, and a test keeps them equal:
`python -c "from studies.export import columns_page; print(columns_page(), end='')" > docs/records.md`.

| Column | Meaning | May differ |
|---|---|---|"""

_FEW_SHOT_PREFACE = """
## Few-shot evaluations

A study that declares `few_shot` leaves, for every network that its arms begin from and for the same networks untrained,
a file `few_shot/<evaluation id>/result.json` with a checksum: what ridge regression on their frozen features makes of k
labelled images per class, for every k and draw. `study export` writes them as a table of their own,
`<study id>.few_shot`, a row per network, number of shots and draw; in Python
`studies.few_shot_results.few_shot_frame(plan, store)`. Draws of one replicate share their network, and all networks of
a replicate have the same draws: average over draws before comparing replicates.

| Column | Meaning |
|---|---|"""

_PROBE_PREFACE = """
## Probes

`study probe` leaves a folder `probes/<result id>/` for every probe of every network that was trained with
`engine.keep_checkpoints=true`, and of the same networks untrained: `result.json`, with a checksum, and where a figure
needs more than numbers `arrays.npz`, whose SHA-256 the result states. A probe that has nothing to measure on a network
(a fully connected net has no attention) leaves a result that says so. The id is a hash of the probe, its version and
settings, and of the cell, or of what an untrained network and its images are made of: so the untrained network of a
replicate is probed once, and stands in the table at every size that begins as it. `study export` writes all readings of
a study as a table of their own, `<study id>.probes`, a row per reading; in Python `studies.probes.probe_frame(plan,
store)`. Heads, layers and settings of one network are no replicates: average over them before comparing replicates.

| Column | Meaning |
|---|---|"""
