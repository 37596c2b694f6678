"""Asking: a study file becomes a plan, for which data, networks and tuning are asked what they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules import DataError, DataInfo

from .arms import parse_arm
from .compose import Composed, compose_study
from .errors import ConfigError
from .grid import Arm, Plan
from .planning import make_plan
from .spec import StudySpec
from .stages import stage_specs, start_sources, with_own_images
from .survey import survey_arms
from .tuning_file import read_tuning


def load_study(name: str, overrides: Sequence[str] = (), config_dir: Path | None = None) -> Composed:
    """A study file with overrides, validated; see `compose_study`."""
    return compose_study(name, overrides, config_dir)


def plan(spec: StudySpec) -> Plan:
    """Resolves and validates every cell without decoding an image or training a step.

    Raises:
        ConfigError: the study cannot be run as asked; says which field and why.
    """
    info = _describe(spec)
    starts = start_sources(spec, info, {name: _plan_stage(name, stage) for name, stage in stage_specs(spec).items()})
    designs = {name: source.image_size for name, source in starts.items()}
    arms: dict[str, Arm] = survey_arms(spec, info, designs)
    known = {arm.name for arm in arms.values()} | {arm.family for arm in arms.values()} | {"default"}
    _check_recipe_names(spec, known)
    planned = make_plan(spec, info, arms, read_tuning(spec.recipe.tuning) if spec.recipe.tuning else None, starts)
    if starts:
        from .start_checks import check_starts_fit  # loads the tables of results, which other studies need not

        check_starts_fit(planned, starts)
    return planned


def refused_data(error: DataError) -> ConfigError:
    """What data modules refuse, told as a field of the study file."""
    text = str(error)
    return ConfigError(text if text.startswith("data.") else f"data: {text}")


def _plan_stage(name: str, spec: StudySpec) -> Plan:
    """The plan of an earlier stage, whose mistakes are told where the study file has them."""
    try:
        return with_own_images(plan(spec))
    except ConfigError as error:
        raise type(error)(f"pretraining.{name}: {error}") from None


def _describe(spec: StudySpec) -> DataInfo:
    try:
        return spec.data.describe()
    except DataError as error:
        raise refused_data(error) from None


def _check_recipe_names(spec: StudySpec, known: set[str]) -> None:
    """A learning rate for a misspelt family would silently not be used."""
    from models import family_names

    for field in ("learning_rate", "weight_decay"):
        setting = getattr(spec.recipe, field)
        for name in setting if isinstance(setting, dict) else ():
            if name not in known and parse_arm(name, spec.tier).family not in family_names() and ":" not in name:
                raise ConfigError(
                    f"recipe.{field}.{name}: no such family; expected default, an arm of this study "
                    f"({', '.join(spec.families)}) or one of {', '.join(family_names())}"
                )
