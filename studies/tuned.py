"""A finished tuning, which other studies cite: who made it, for what, at what cost, who won, and every trial.

`recipe.tuning` names its file (`studies.tuning_file`). Each cell then takes its learning rate and weight decay from the
tuned sizes of its arm, and whatever differs between the study and what the tuning was made for is said in the plan and
in the report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from datamodules import DataInfo

from .digest import digest
from .errors import ConfigError
from .protocol import PROTOCOL_VERSION
from .spec import StudySpec
from .strict import Strict
from .tuning import Trial, TuningSpec, interpolate


class Origin(Strict):
    """Who made a tuning.

    Attributes:
        study_id: of the last round, whose plan holds every trial.
        plan_hashes: of every round.
        package_versions: of the code that trained the cells.
    """

    study_id: str
    plan_hashes: tuple[str, ...]
    protocol_version: str
    package_versions: tuple[str, ...]


class Conditions(Strict):
    """What a tuning was made for; a study that differs in any of it says so."""

    data: str
    data_fingerprint: str
    image_size: int
    tier: str
    batch_size: int
    num_validation: int
    augmentation: tuple[str, ...]
    precision: str
    permutation: str
    label_smoothing: float
    warmup_fraction: float
    cooldown_fraction: float

    @classmethod
    def of(cls, spec: StudySpec, data: DataInfo) -> Conditions:
        """The conditions of a study."""
        return cls(
            data=data.name,
            data_fingerprint=data.fingerprint,
            image_size=data.image_size,
            tier=spec.tier,
            batch_size=spec.budget.batch_size,
            num_validation=spec.num_validation,
            augmentation=spec.augmentation,
            precision=spec.recipe.precision,
            permutation=", ".join(spec.rungs),
            label_smoothing=spec.recipe.label_smoothing,
            warmup_fraction=spec.budget.warmup_fraction,
            cooldown_fraction=spec.budget.cooldown_fraction,
        )


class TuningCost(Strict):
    """What a tuning took: trials of all arms and sizes, trained cells, and their training FLOPs."""

    trials: int
    cells: int
    train_flops: int


class TunedPoint(Strict):
    """The outcome for one arm at one train size.

    Attributes:
        steps: optimiser steps of every trial.
        learning_rate: of the winner.
        weight_decay: of the winner.
        validation_error: of the winner, geometric mean over its replicates.
        at_edge: the winning rate is the smallest or largest tried, and the trials are used up.
        trials: every trial, by rate and decay.
    """

    steps: PositiveInt
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(gt=0)]
    validation_error: float
    at_edge: bool
    num_trials: PositiveInt
    trials: tuple[Trial, ...]


class Network(Strict):
    """What an arm was when it was tuned: a name alone does not say that its network is still the same."""

    forward_flops: int
    num_parameters: int


class Citation(Strict):
    """What a plan and a report say of the tuning they used."""

    name: str
    sha256: str
    trials: int
    cells: int
    train_flops: int


class Tuning(Strict):
    """A finished tuning.

    Attributes:
        name: of the study that was tuned.
        networks: size and cost per image of every arm.
        arms: per arm and train size the winner and all trials.
        sha256: of everything else.
    """

    schema_version: Literal[1] = 1
    name: str
    origin: Origin
    conditions: Conditions
    rules: TuningSpec
    cost: TuningCost
    networks: dict[str, Network]
    arms: Annotated[dict[str, Annotated[dict[PositiveInt, TunedPoint], Field(min_length=1)]], Field(min_length=1)]
    sha256: str = ""

    def digest(self) -> str:
        """SHA-256 of the content."""
        return digest(self.model_dump(mode="json", exclude={"sha256"}), allow_nan=True)

    def sealed(self) -> Tuning:
        """The same with the hash of its content."""
        return self.model_copy(update={"sha256": self.digest()})

    @property
    def citation(self) -> Citation:
        """Name, hash and cost."""
        return Citation(name=self.name, sha256=self.sha256, **self.cost.model_dump())

    def values(self, arm: str, num_train: int) -> tuple[float, float]:
        """Learning rate and weight decay of an arm at N images; see `interpolate`.

        Raises:
            ConfigError: the arm was not tuned; names those that were.
        """
        if arm not in self.arms:
            raise ConfigError(
                f"recipe.tuning: this study takes learning rates and weight decays from the tuning {self.name}, which "
                f"has none for {arm!r}, only for {', '.join(self.arms)}. Name one of these in families instead; or add "
                f"recipe.tuning=null to the command, which trains all arms by one fixed recipe; or tune {arm!r} too "
                "(study tune)"
            )
        points = self.arms[arm]
        rates = {size: point.learning_rate for size, point in points.items()}
        decays = {size: point.weight_decay for size, point in points.items()}
        return interpolate(rates, num_train), interpolate(decays, num_train)

    def remarks(
        self, conditions: Conditions, used: Iterable[tuple[str, int, int]], networks: Mapping[str, Network]
    ) -> tuple[str, ...]:
        """What a reader of a study that cites this tuning must know, a sentence each.

        Args:
            conditions: of the study.
            used: arm, train size and steps of the study's cells.
            networks: of the study's arms.
        """
        places = sorted(set(used))
        sizes = sorted({size for arm, _, _ in places for size in self.arms[arm]})
        remarks = [
            f"Learning rates and weight decays are those of the tuning {self.name} (sha256 {self.sha256[:12]}; "
            f"{self.cost.trials} trials on validation, on replicates that are never reported), tuned at N = "
            f"{_listed(sizes)} and interpolated in ln N."
        ]
        here, there = conditions.model_dump(), self.conditions.model_dump()
        if here["data_fingerprint"] == there["data_fingerprint"]:  # what data are called is no difference
            del here["data"]
        different = [f"{name} {_shown(here[name])} (tuned: {_shown(there[name])})" for name in here
                     if here[name] != there[name]]  # fmt: skip
        if self.origin.protocol_version != PROTOCOL_VERSION:
            different.append(f"protocol {PROTOCOL_VERSION} (tuned: {self.origin.protocol_version})")
        different += [
            f"{arm} of {new.num_parameters:,} parameters and {new.forward_flops:,} forward FLOPs "
            f"(tuned: {old.num_parameters:,} and {old.forward_flops:,})"
            for arm, new in networks.items()
            if (old := self.networks[arm]) != new
        ]
        if different:
            remarks.append(f"This study differs from what its tuning was made for: {'; '.join(different)}.")
        if other := self._other_budgets(places):
            remarks.append(f"The budget differs from the tuning's: {'; '.join(other)}.")
        if outside := self._outside(places):
            remarks.append(
                f"Outside the tuned sizes, where the values of the nearest one are used: {'; '.join(outside)}."
            )
        if edges := self._edges({arm for arm, _, _ in places}):
            remarks.append(
                "The best learning rate was still at the edge of its grid after all trials, so that a better one may "
                f"lie beyond: {'; '.join(edges)}."
            )
        return tuple(remarks)

    def _other_budgets(self, places: list[tuple[str, int, int]]) -> list[str]:
        """Arms whose steps are not between those of the tuned sizes around N."""
        texts: dict[tuple[int, str], list[str]] = {}
        for arm, num_train, steps in places:
            points = self.arms[arm]
            nearest = {max((s for s in points if s <= num_train), default=min(points)),
                       min((s for s in points if s >= num_train), default=max(points))}  # fmt: skip
            low, high = (extreme(points[size].steps for size in nearest) for extreme in (min, max))
            if not low <= steps <= high:
                tuned = f"{low:,}" if low == high else f"{low:,} to {high:,}"
                arms = texts.setdefault((steps, tuned), [])
                if arm not in arms:
                    arms.append(arm)
        return [f"{steps:,} steps for {', '.join(arms)} (tuned: {tuned})" for (steps, tuned), arms in texts.items()]

    def _outside(self, places: list[tuple[str, int, int]]) -> list[str]:
        texts: dict[tuple[int, ...], list[str]] = {}
        for arm in dict.fromkeys(arm for arm, _, _ in places):
            low, high = min(self.arms[arm]), max(self.arms[arm])
            if beyond := tuple(sorted(n for name, n, _ in places if name == arm and not low <= n <= high)):
                texts.setdefault((low, high, *beyond), []).append(arm)
        return [
            f"N = {_listed(beyond)} for {', '.join(arms)} (tuned from {low:,} to {high:,})"
            for (low, high, *beyond), arms in texts.items()
        ]

    def _edges(self, arms: Iterable[str]) -> list[str]:
        return [
            f"{arm} at N = {size:,} ({point.learning_rate:g})"
            for arm in sorted(arms)
            for size, point in self.arms[arm].items()
            if point.at_edge
        ]


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "none"
    return value[:12] if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else str(value)
