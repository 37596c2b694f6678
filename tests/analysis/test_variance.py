"""The spread over seeds, one seed at a time, on cells whose errors are made of known parts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from studies.analysis.variance import variance_split


def cell(
    index: int, error: float, subset: int, order: int, initialization: int, **changes: object
) -> dict[str, object]:
    return {
        "cell_id": f"{index:04}", "status": "finished", "selected": True, "branch": 1.0, "arm": "vit", "num_train": 64,
        "replicate": index, "test_error": error, "num_test": 1000, "subset_seed": subset, "order_seed": order,
        "initialization_seed": initialization, "augmentation_seed": subset, "data_fingerprint": "d",
        "permutation": "none", "augmentation": "none", "budget_flops": 1e9, "learning_rate": 0.001,
        "weight_decay": 0.05,
    } | changes  # fmt: skip


def test_replicates_that_change_every_seed_give_one_part() -> None:
    errors = [0.2, 0.25, 0.22, 0.3]
    split = variance_split(pd.DataFrame([cell(i, e, i, i, i) for i, e in enumerate(errors)]))
    (part,) = split.parts.to_dict("records")
    assert part["varied"] == "subset+order+initialization+augmentation"
    assert (part["num_groups"], part["degrees"]) == (1, 3)
    assert part["log_std"] == pytest.approx(np.std(np.log(errors), ddof=1))
    low, high = stats.chi2.ppf([0.025, 0.975], 3)
    variance = 3 * part["log_std"] ** 2
    assert (part["low"], part["high"]) == (
        pytest.approx(np.sqrt(variance / high)),
        pytest.approx(np.sqrt(variance / low)),
    )


def test_a_seed_that_varies_alone_is_pooled_over_its_groups() -> None:
    """Two subsets, three initialisations each: the subsets' own difference is not in the spread."""
    errors = {(s, i): 0.2 * (1 + s) * (1 + 0.1 * i) for s in (0, 1) for i in (0, 1, 2)}
    cells = [cell(place, error, s, 0, i) for place, ((s, i), error) in enumerate(errors.items())]
    parts = variance_split(pd.DataFrame(cells)).parts
    alone = parts[parts["varied"] == "initialization"].iloc[0]
    assert (alone["num_groups"], alone["degrees"]) == (2, 4)
    assert alone["log_std"] == pytest.approx(np.std(np.log([1, 1.1, 1.2]), ddof=1))


def test_another_learning_rate_or_budget_is_not_a_seed() -> None:
    same = [cell(i, e, i, i, i) for i, e in enumerate([0.2, 0.21])]
    other = [cell(i + 2, e, i, i, i, learning_rate=0.01) for i, e in enumerate([0.4, 0.42])]
    parts = variance_split(pd.DataFrame([*same, *other])).parts
    assert list(parts["degrees"]) == [1, 1]
    assert parts["log_std"].to_numpy() == pytest.approx(np.std(np.log([0.2, 0.21]), ddof=1))


def test_cells_that_share_no_design_are_named() -> None:
    split = variance_split(pd.DataFrame([cell(0, 0.2, 0, 0, 0)]))
    assert split.parts.empty
    assert "cannot be split" in split.sentence()
    assert [item.what for item in split.left_out] == ["vit at 64"]
