"""What `study bench calibration` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from studies.analysis.calibration import QUESTIONS, SCENARIOS


def calibration_tables(rates: pd.DataFrame, checks: Sequence[tuple[str, bool]]) -> Iterator[RenderableType]:
    """A table per scenario, rates in percent with their Monte Carlo standard errors, then what is required."""
    counts = sorted(rates["num_replicates"].unique())
    for scenario, of_scenario in rates.groupby("scenario", sort=False):
        title = SCENARIOS[str(scenario)].title
        table = Table(title, *(f"R = {count}" for count in counts))
        for question, told in QUESTIONS.items():
            rows = of_scenario[of_scenario["question"] == question]
            shown = {
                row["num_replicates"]: f"{100 * row['rate']:.1f} ± {100 * row['standard_error']:.1f}"
                for row in rows.to_dict("records")
            }
            if shown:
                table.add_row(told, *(shown.get(count, "") for count in counts))
        yield table
    for told, met in checks:
        yield Text(f"{'met' if met else 'NOT MET'}: {told}", style="green" if met else "red")
