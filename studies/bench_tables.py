"""What `study bench` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .analysis.calibration import QUESTIONS, SCENARIOS


def calibration_tables(rates: pd.DataFrame, checks: Sequence[tuple[str, bool]]) -> Iterator[RenderableType]:
    """A table per scenario, rates in percent with their Monte Carlo standard errors, then what is required."""
    counts = sorted(rates["num_replicates"].unique())
    for scenario, of_scenario in rates.groupby("scenario", sort=False):
        title = SCENARIOS[str(scenario)].title
        table = Table(title, *(f"R = {count}" for count in counts))
        cells = of_scenario.set_index(["question", "num_replicates"])
        for question, told in QUESTIONS.items():
            if question in set(of_scenario["question"]):
                shown = []
                for count in counts:
                    known = (question, count) in cells.index
                    rate, error = cells.loc[(question, count), ["rate", "standard_error"]] if known else (None, None)
                    shown.append(f"{100 * rate:.1f} ± {100 * error:.1f}" if known else "")
                table.add_row(told, *shown)
        yield table
    for told, met in checks:
        yield Text(f"{'met' if met else 'NOT MET'}: {told}", style="green" if met else "red")
