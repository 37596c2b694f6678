"""The learning rates and weight decays of a tuned study, where they came from and what finding them cost."""

from __future__ import annotations

import pandas as pd

from studies.counts import counted
from studies.tuned import Citation

from .palette import looks_of
from .tables import Table


def tuned_table(frame: pd.DataFrame, tuning: Citation, executed_flops: int) -> Table:
    """Peak learning rate and weight decay of every arm at every size, read off the records.

    Args:
        frame: the table of records (`studies.records.records_frame`).
        tuning: the tuning the study cites.
        executed_flops: training FLOPs of the study, to hold the tuning's against.
    """
    sizes = sorted(set(frame["num_train"]))
    pairs = frame.assign(
        pair=[
            f"{rate:g} / {decay:g}" for rate, decay in zip(frame["learning_rate"], frame["weight_decay"], strict=True)
        ]
    )
    rows = []
    for arm, look in looks_of(frame).items():
        of_arm = pairs[pairs["arm"] == arm]
        found = [sorted(set(of_arm.loc[of_arm["num_train"] == size, "pair"])) for size in sizes]
        rows.append((look.label, *(", ".join(texts) or "–" for texts in found)))
    return Table(
        name="tuned",
        title="Peak learning rate / weight decay",
        columns=("Arm", *(f"N = {size:,}" for size in sizes)),
        rows=tuple(rows),
        note=f"From the tuning {tuning.name} (sha256 {tuning.sha256[:12]}), between its tuned sizes interpolated in ln "
        f"N. It took {counted(tuning.trials, 'trial')}, {counted(tuning.cells, 'cell')} and {tuning.train_flops:.3g} "
        f"training FLOPs, {tuning.train_flops / executed_flops:.0%} of those of this study, which are not part of any "
        "run's budget. Trials were judged on validation images of replicates that are never reported.",
    )
