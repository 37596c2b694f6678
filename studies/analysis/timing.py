"""How long the analysis of a study takes: simulated, with every interval, form and pair."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from .answers import analyse
from .fitting import fit_curves
from .simulation import Noise, PowerLaw, simulate
from .table import curve_table


def time_analysis(num_families: int, num_sizes: int, num_replicates: int, seed: int = 0) -> dict[str, Any]:
    """Simulates a study with one test set and analyses it once.

    Returns:
        `seconds` of `curve_table` and `analyse` together, `fit_seconds` of the fits alone (run again), `num_findings`,
        `num_test`.
    """
    places = np.linspace(0, 1, num_families)
    truths = {
        f"family {index}": PowerLaw(0.16 - 0.11 * place, 6.0 - 2.4 * place, 0.5 - 0.15 * place)
        for index, place in enumerate(places)
    }
    sizes = np.asarray(2.0 ** (6 + np.arange(num_sizes)), float)
    noise = Noise()
    simulated = simulate(truths, sizes, num_replicates, noise, np.random.default_rng(seed))
    frame, columns, blocks = simulated.table()
    start = time.perf_counter()
    table = curve_table(frame, columns, blocks=blocks)
    answers = analyse(table, chance=0.9, seed=seed)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    fit_curves(table.curves, chance=0.9, seed=seed)
    return {
        "seconds": seconds,
        "fit_seconds": time.perf_counter() - start,
        "num_findings": len(answers.findings),
        "num_test": noise.num_test,
    }
