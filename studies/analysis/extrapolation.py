"""Which form a curve has, asked of the sizes it was not fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .finding import Finding, Names, name_of


@dataclass(frozen=True, kw_only=True)
class FormChoice(Finding):
    """The form of a curve, chosen by how well it extrapolates.

    Attributes:
        family: whose curve.
        chosen: M1 to M4.
        by_extrapolation: whether at least two forms competed; otherwise `chosen` is the default.
        why: one clause.
        log_errors: root mean square log error on the held-out sizes of every form that competed.
        held_out: the two largest sizes, which no form saw.
    """

    family: str
    chosen: str
    by_extrapolation: bool
    why: str
    log_errors: Mapping[str, float]
    held_out: tuple[float, ...]

    def sentence(self, names: Names | None = None) -> str:
        """See `Finding`."""
        how = "chosen by extrapolation" if self.by_extrapolation else "not chosen by extrapolation"
        return f"{name_of(self.family, names)}: form {self.chosen}, {how}: {self.why}."
