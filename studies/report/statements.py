"""What a study answers, in sentences: progress first, then the crossing, then what was best where."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from studies.curves import Crossing, Rule, curve_points, data_curves

from .card import StudyCard
from .palette import Look
from .tables import EXACT_FLOPS_TOLERANCE, percent


def progress_statement(frame: pd.DataFrame, card: StudyCard) -> str:
    """How much of the study there is; empty when every planned cell is finished."""
    status = frame.drop_duplicates("cell_id")["status"]
    usable = int(status.isin(["finished", "diverged"]).sum())
    waiting = max(card.num_cells - len(status), 0)
    if usable >= card.num_cells:
        return ""
    parts = [f"{usable} of {card.num_cells} planned cells are finished"]
    for name in ("failed", "invalid"):
        count = int((status == name).sum())
        if count:
            parts.append(f"{count} {name}")
    if waiting:
        parts.append(f"{waiting} not trained yet")
    tail = "what follows describes the finished cells only." if usable else "there is nothing to show yet."
    return "This study is incomplete: " + ", ".join(parts) + "; " + tail


def crossing_statement(crossing: Crossing, looks: dict[str, Look]) -> str:
    """The answer for a pair of arms under one rule."""
    label_a, label_b = looks[crossing.arm_a].label, looks[crossing.arm_b].label
    differences = crossing.differences
    if differences.empty:
        return f"{label_a} and {label_b} have no size and replicate in common yet: nothing can be compared."
    sizes = differences["num_train"].to_numpy(int)
    largest = int(sizes.max())
    places = [
        f"N ≈ {_rounded(change.num_train)} (from {looks[change.better_below].label} to "
        f"{looks[change.better_above].label}, at {percent(change.error)}% error)"
        for change in crossing.sign_changes
    ]
    seen = "; ".join(places)
    if crossing.decision == "crosses":
        text = (
            f"The data curves of {label_a} and {label_b} cross: each is better than the other at some size, with 95% "
        )
        return text + f"intervals of the paired difference excluding zero on both sides. The lead changes at {seen}."
    if crossing.decision == "none below N_max":
        better, worse = (label_a, label_b) if differences["difference"].iloc[0] < 0 else (label_b, label_a)
        where = f"at every size from {sizes.min():,} to {largest:,}" if len(sizes) > 1 else f"at N = {largest:,}"
        return f"{better} has the lower error than {worse} {where}: no crossing up to {largest:,} training images."
    text = f"Whether {label_a} and {label_b} cross up to N = {largest:,} is not resolved"
    if (differences["num_pairs"] < 2).all():
        text += ": one replicate gives no interval"
    else:
        open_sizes = differences["num_train"][(differences["low"] <= 0) & (differences["high"] >= 0)]
        if len(open_sizes):
            text += (
                f": the 95% interval of the difference includes zero at N = {', '.join(f'{n:,}' for n in open_sizes)}"
            )
    return text + (f". The means change order at {seen}." if seen else ". The means do not change order.")


def best_statements(frame: pd.DataFrame, looks: dict[str, Look], rule: Rule = "selected") -> list[str]:
    """At the smallest and the largest size, which arm has the lowest mean error."""
    curves = data_curves(frame, rule)
    sizes = sorted(set(curves["num_train"]))
    statements = []
    for size in dict.fromkeys([sizes[0], sizes[-1]] if sizes else []):
        ranked = curves[curves["num_train"] == size].sort_values("mean", kind="stable")
        first = ranked.iloc[0]
        text = f"With {size:,} training images the lowest mean error is that of {looks[str(first['arm'])].label}: "
        text += f"{percent(float(first['mean']), float(first['half_width']))}%"
        if len(ranked) > 1:
            second = ranked.iloc[1]
            text += f"; next is {looks[str(second['arm'])].label} with "
            text += f"{percent(float(second['mean']), float(second['half_width']))}%"
        statements.append(text + ".")
    return statements


def floor_statement(frame: pd.DataFrame, card: StudyCard, looks: dict[str, Look]) -> str:
    """How near the convolutional arms end to lambda; empty without such a floor."""
    curves = data_curves(frame)
    if not card.floor or curves.empty:
        return ""
    last = curves[(curves["num_train"] == curves["num_train"].max()) & (curves["family"] == "resnet")]
    ends = [
        f"{looks[str(arm)].label} is at {percent(float(mean), float(half_width))}%"
        for arm, mean, half_width in zip(last["arm"], last["mean"], last["half_width"], strict=True)
    ]
    text = f"An exactly translation-invariant model cannot get below λ = {percent(card.floor)}%"
    return f"{text}; with the most images {' and '.join(ends)}." if ends else f"{text}."


def reservation_statements(frame: pd.DataFrame, card: StudyCard, crossings: list[Crossing]) -> list[str]:
    """Limits that a reader of the answer must know, found in the records."""
    points, full = curve_points(frame), curve_points(frame, "full_budget")
    statements = list(card.notes)
    replicates = int(data_curves(frame)["num_replicates"].min()) if len(points) else 0
    if 0 < replicates < 5:
        word = "one replicate" if replicates == 1 else f"{replicates} replicates"
        statements.append(f"Some points rest on {word}; a full study has at least 5.")
    if any(crossing.shared_test for crossing in crossings):
        added = all(crossing.test_variance for crossing in crossings if crossing.shared_test)
        text = "All replicates are tested on the same images: the bands show the spread over seeds, not the choice of "
        tail = "test set; the paired differences include its variance (delete-one of 20 blocks of test images)."
        statements.append(
            text + (tail if added else "test set, and the paired differences hold for this test set only.")
        )
    exact = full.groupby("arm")["train_flops_exact"].mean()
    if len(exact) and 1 - float(exact.min()) / float(exact.max()) > EXACT_FLOPS_TOLERANCE:
        statements.append(
            f"Exact training FLOPs differ by up to {100 * (1 - float(exact.min()) / float(exact.max())):.0f}% between "
            "arms at equal nominal FLOPs (see the cost table): the cheaper arms had less compute than the budget says."
        )
    limited = sorted(set(points.loc[points["compute_limited"].astype(bool), "num_train"]))
    if limited:
        text = ", ".join(f"{size:,}" for size in limited)
        statements.append(
            f"Compute-limited, fewer than 30 passes over the training images at the full budget: N = {text}."
        )
    small = sorted({int(size) for size in points["num_train"] if card.num_validation > size / 4})
    if small:
        text = f"{small[0]:,}" if len(small) == 1 else f"{small[0]:,} to {small[-1]:,}"
        statements.append(
            f"The branch is chosen on V = {card.num_validation:,} validation images that N does not count; this is "
            f"more than a quarter of N at N = {text}."
        )
    if not all(frame["protocol_version"] == card.protocol_version):
        found = ", ".join(sorted(set(frame["protocol_version"])))
        statements.append(f"Planned under protocol {card.protocol_version}, records made under {found}.")
    for column, what in (
        ("code_version", "versions of the code"),
        ("torch", "versions of torch"),
        ("device", "devices"),
    ):
        values = sorted(set(frame[column].dropna()))
        if len(values) > 1:
            statements.append(f"Records come from {len(values)} {what}: {', '.join(values)}.")
    if (frame[frame["subset_hash"] != ""].groupby(["num_train", "replicate"])["subset_hash"].nunique() > 1).any():
        statements.append("Arms of one size and replicate were trained on different subsets: their pairing is broken.")
    unseen = points[~points["sees_every_image"].astype(bool)]
    if len(unseen):
        statements.append(
            f"In {len(unseen)} cells the chosen branch saw fewer images than N once: it could not use all of them."
        )
    return statements


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)


def _rounded(value: float) -> str:
    """Two significant digits, in full: 2,900."""
    return f"{float(f'{value:.2g}'):,.0f}"
