"""Trying again what failed: the option of the verbs that can, and which records it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from .errors import ConfigError

if TYPE_CHECKING:
    from .store import CellState

RETRIED: frozenset[CellState] = frozenset({"failed", "invalid"})
"""States of cells that failed: by a fault of their own, or by FLOPs that are not those planned."""
FAILED_ASIDE = "failed"
"""What the record of a cell that is tried again is set aside as."""

RetryOption = Annotated[
    Optional[str],  # noqa: UP045  # typer reads this form
    typer.Option("--retry", metavar="failed", help="Try again what its record says failed, or is invalid."),
]


def asks_to_retry(told: str | None) -> bool:
    """Whether `--retry failed` was given.

    Raises:
        ConfigError: something else was.
    """
    if told == "diverged":
        raise ConfigError(
            "--retry: 'diverged' was given, but a diverged cell is a result: the loss of this recipe is not finite. "
            "Trained again, to the same bits, it diverges again. It counts at chance. Change the recipe, such as "
            "recipe.learning_rate, which makes other cells of it; only failed can be retried"
        )
    if told not in (None, "failed"):
        raise ConfigError(f"--retry: {told!r} was given; expected failed (which includes invalid cells)")
    return told is not None
