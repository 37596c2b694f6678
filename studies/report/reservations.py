"""What a reader of the answers must know: limits found in the records."""

from __future__ import annotations

import pandas as pd

from studies.analysis.of_records import curve_points
from studies.analysis.study import StudyAnswers
from studies.analysis.summary import data_curves
from studies.counts import counted

from .card import StudyCard
from .tables import EXACT_FLOPS_TOLERANCE


def reservation_statements(frame: pd.DataFrame, card: StudyCard, answers: StudyAnswers) -> list[str]:
    """Limits that a reader of the answer must know, found in the records."""
    points, full = curve_points(frame), curve_points(frame, "full_budget")
    statements = list(card.notes)
    replicates = int(data_curves(frame, x=card.x)["num_replicates"].min()) if len(points) else 0
    if 0 < replicates < 5:
        word = {1: "one replicate, without any interval", 2: "two replicates, which carry no useful interval"}
        told = word.get(replicates, f"{replicates} replicates")
        statements.append(f"Some points rest on only {told}; a full study has at least 5.")
    if points["replicate"].nunique() > 1 and points["test_checksum"].nunique() == 1:
        curves = answers.by_rule["selected"].table.curves.values()
        text = "All replicates are tested on the same images: the bands show the spread over seeds, not the choice of "
        if all(curve.block_log_error is not None for curve in curves):
            text += "test set; intervals of comparisons include its variance (delete-one of 20 blocks of test images)."
        else:
            text += "test set, and comparisons hold for this test set only."
        statements.append(text)
    exact = full[full["status"] == "finished"].groupby("arm")["train_flops_exact"].mean()
    if len(exact) and 1 - float(exact.min()) / float(exact.max()) > EXACT_FLOPS_TOLERANCE:
        statements.append(
            f"Exact training FLOPs differ by up to {100 * (1 - float(exact.min()) / float(exact.max())):.0f}% between "
            "arms at equal nominal FLOPs (see the cost table): the cheaper arms used less compute than their budget."
        )
    limited = sorted(set(points.loc[points["compute_limited"].astype(bool), "num_train"]))
    if limited:
        text = ", ".join(f"{size:,}" for size in limited)
        statements.append(
            f"Compute-limited: at N = {text} even the full budget is fewer than 30 passes over the training images."
        )
    small = sorted({int(size) for size in points["num_train"].unique() if card.num_validation > size / 4})
    if small:
        text = f"{small[0]:,}" if len(small) == 1 else f"{small[0]:,} to {small[-1]:,}"
        statements.append(
            f"The branch is chosen on V = {card.num_validation:,} validation images, which N does not count; at N = "
            f"{text} there are more than a quarter as many of them as training images."
        )
    if not (frame["protocol_version"] == card.protocol_version).all():
        found = ", ".join(sorted(frame["protocol_version"].unique()))
        statements.append(
            f"The study was planned under protocol {card.protocol_version}; its records were made under {found}."
        )
    for column, what in (
        ("code_version", "versions of the code"),
        ("torch", "versions of torch"),
        ("device", "devices"),
    ):
        values = sorted(frame[column].dropna().unique())
        if len(values) > 1:
            statements.append(f"Records come from {len(values)} {what}: {', '.join(values)}.")
    if (frame[frame["subset_hash"] != ""].groupby(["num_train", "replicate"])["subset_hash"].nunique() > 1).any():
        statements.append(
            "Arms of the same size and replicate were trained on different subsets, which breaks their pairing."
        )
    unseen = points[~points["sees_every_image"].astype(bool)]
    if len(unseen):
        statements.append(
            f"In {counted(len(unseen), 'cell')} the chosen branch ended before each of the N training images was seen "
            "once."
        )
    return statements
