"""From files and overrides to a validated question. The only module that knows Hydra."""

from __future__ import annotations

import difflib
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .engine_spec import EngineSpec, engine_model
from .errors import ConfigError
from .left_out_arms import without_left_out_arms
from .recipe import Recipe
from .spec import StudySpec
from .tracking import TrackingSpec
from .tuning import TuningSpec
from .tuning_file import is_name, shipped_tunings

GROUPS = ("study", "data", "budget", "recipe", "engine", "tracking")

NUMBER_FORMS = ("constrained-int", "float")
"""How pydantic names the number among the forms of a field that is a number or a mapping."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Composed:
    """A study with the settings of its run.

    Attributes:
        spec: the question; all that enters the plan.
        engine: where cells run; changes no result.
        tracking: the W&B mirror; changes no result.
        tuning: how `study tune` tunes the study; changes no result of the study itself.
        notes: what overrides did besides what they say, a sentence each.
    """

    spec: StudySpec
    engine: EngineSpec
    tracking: TrackingSpec
    tuning: TuningSpec = field(default_factory=TuningSpec)
    notes: tuple[str, ...] = ()


def compose_study(study: str, overrides: Sequence[str] = (), config_dir: Path | None = None) -> Composed:
    """Composes `configs/study/<study>.yaml` with overrides in Hydra's grammar, and validates the outcome.

    Args:
        study: name of a study file, packaged or in `config_dir`/study.
        overrides: such as `data=cifar10`, `data.name=/my/folder`, `num_train=[100,1000]`.
        config_dir: a folder laid out as `configs/`, searched beside the packaged one.

    Raises:
        ConfigError: an unknown study, group choice or key, or a value that is not allowed; names field and value.
    """
    for group in GROUPS:
        _choices(group, config_dir)  # refuses a file of the user's that a packaged one would silently hide
    _check_choice("study", study, config_dir)
    for override in overrides:
        group, _, choice = override.lstrip("+").partition("=")
        if group == "tuning":
            raise ConfigError(
                f"tuning: is a section with fields; to cite a finished tuning write recipe.tuning={choice}"
            )
        if group in GROUPS and re.fullmatch(r"[\w-]+", choice):
            _check_choice(group, choice, config_dir)
    content = _compose(study, [_opened(override) for override in overrides], config_dir)
    if "study" in content:
        raise ConfigError(f"study {study}: the first line of its file must be `# @package _global_`")
    engine, tracking, tuning = content.pop("engine"), content.pop("tracking"), content.pop("tuning")
    content, notes = without_left_out_arms(content, overrides)
    return Composed(
        spec=_with_tuning_found(validate(StudySpec, content, f"study {study}"), config_dir),
        engine=validate(engine_model(engine), engine, f"study {study}", "engine."),
        tracking=validate(TrackingSpec, tracking, f"study {study}", "tracking."),
        tuning=validate(TuningSpec, tuning, f"study {study}", "tuning."),
        notes=notes,
    )


def validate(model: type[Model], content: dict[str, Any], where: str, prefix: str = "") -> Model:
    """Validates `content`, turning pydantic's report into one message that names every bad field and its value.

    Args:
        where: what the message begins with.
        prefix: put before every field, such as `engine.`.

    Raises:
        ConfigError: with a line per bad field.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = []
        for problem in _without_other_forms(error.errors(include_url=False)):
            location = _location(problem["loc"])
            if problem["type"] == "extra_forbidden":
                known = _known_fields(model, problem["loc"])
                text = f"is not a known field{_did_you_mean(str(problem['loc'][-1]), known)}"
            else:
                text = f"{problem['msg'].removeprefix('Value error, ')}"
            if problem["type"] != "missing" and not isinstance(problem["input"], dict | BaseModel):
                text += f" (given: {problem['input']!r})"
            lines.append(f"  {prefix}{location}: {text}" if location else f"  {text}")
        raise ConfigError(f"{where}:\n" + "\n".join(lines)) from None


def list_studies(config_dir: Path | None = None) -> dict[str, dict[str, Any]]:
    """Name -> top-level content of every study file, packaged first.

    Raises:
        ConfigError: a file is not YAML, or `config_dir` hides a packaged one.
    """
    studies = {}
    for name, path in _choices("study", config_dir).items():
        try:
            studies[name] = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {_on_one_line(error)}") from None
    return studies


def list_tunings(config_dir: Path | None = None) -> dict[str, Path]:
    """Name -> file of every tuning a study can cite by name: shipped, or in `config_dir`/tuning.

    Raises:
        ConfigError: `config_dir` hides a packaged one.
    """
    return _choices("tuning", config_dir)


def _with_tuning_found(spec: StudySpec, config_dir: Path | None) -> StudySpec:
    """Replaces the names of tunings of the user's by paths; the name of a shipped one means the same everywhere."""
    stages = {
        name: stage.model_copy(update={"recipe": _recipe_found(stage.recipe, f"pretraining.{name}.", config_dir)})
        for name, stage in spec.pretraining.items()
    }
    return spec.model_copy(update={"recipe": _recipe_found(spec.recipe, "", config_dir), "pretraining": stages})


def _recipe_found(recipe: Recipe, where: str, config_dir: Path | None) -> Recipe:
    name = recipe.tuning
    if name is None or not is_name(name):
        return recipe
    known = list_tunings(config_dir)
    if name in shipped_tunings():
        return recipe
    if name not in known:
        choices = ", ".join(known) or "none"
        raise ConfigError(
            f"{where}recipe.tuning: {name!r} is not known{_did_you_mean(name, list(known))}; there are: {choices}, or "
            "give the path of a file that `study tune` wrote"
        )
    return recipe.model_copy(update={"tuning": str(known[name].resolve())})


def _opened(override: str) -> str:
    """Lets an override add what the files do not mention: which fields exist is for pydantic to say, not for Hydra."""
    key, equals, _ = override.partition("=")
    return f"++{override}" if equals and re.fullmatch(r"[\w.]+", key) and key not in GROUPS else override


def _compose(study: str, overrides: list[str], config_dir: Path | None) -> dict[str, Any]:
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    search = [] if config_dir is None else [f"hydra.searchpath=['file://{config_dir.resolve()}']"]
    outer = GlobalHydra.instance().hydra  # of a Hydra application around us, which must not notice
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("configs", version_base="1.3", job_name="study"):
            config = compose("base", overrides=[f"study={study}", *overrides, *search])
        content = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: has no default here; add {error.full_key}=...") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"study {study}: a file is not YAML: {_on_one_line(error)}") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_plain(error, study, overrides, config_dir)) from None
    finally:
        GlobalHydra.instance().hydra = outer
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _plain(error: Exception, study: str, overrides: list[str], config_dir: Path | None) -> str:
    message = str(error).splitlines()[0]
    if choice := re.search(r"Could not find '(\w+)/([^']+)'", message):
        return f"study {study}: {_unknown_choice(choice[1], choice[2], _choices(choice[1], config_dir))}"
    if message.startswith("Ambiguous value"):
        message = message.replace("'++", "'") + "; write a list as key=[a,b]"
    return f"study {study}: {message} (overrides: {' '.join(text.lstrip('+') for text in overrides) or 'none'})"


def _choices(group: str, config_dir: Path | None) -> dict[str, Path]:
    packaged = Path(str(importlib.resources.files("configs"))) / group
    found = {path.stem: path for path in sorted(packaged.glob("*.yaml"))}
    if config_dir is None:
        return found
    if not config_dir.is_dir():
        raise ConfigError(f"--config-dir: {config_dir} is not a folder")
    own = {path.stem: path for path in sorted((config_dir / group).glob("*.yaml"))}
    for name in own.keys() & found.keys():
        raise ConfigError(f"{own[name]}: a packaged {group} is named {name!r} too and would win; rename yours")
    return found | own


def _check_choice(group: str, name: str, config_dir: Path | None) -> None:
    choices = _choices(group, config_dir)
    if name not in choices:
        raise ConfigError(_unknown_choice(group, name, choices))


def _unknown_choice(group: str, name: str, choices: Mapping[str, Path]) -> str:
    return f"{group}: {name!r} is not known{_did_you_mean(name, list(choices))}; there are: {', '.join(choices)}"


def _without_other_forms(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Where a field is a number or a mapping, keeps what is wrong with the form that was given."""
    given_as_number = {problem["loc"][:-1] for problem in problems if problem["type"] == "dict_type"}
    kept = []
    for problem in problems:
        at = next((i for i, part in enumerate(problem["loc"]) if _is_form(part)), None)
        if at is not None:
            about_number = problem["loc"][at] in NUMBER_FORMS
            if about_number != (problem["loc"][:at] in given_as_number):
                continue
        kept.append(problem)
    return kept


def _is_form(part: int | str) -> bool:
    return isinstance(part, str) and (part in NUMBER_FORMS or part.startswith("dict["))


def _location(parts: tuple[int | str, ...]) -> str:
    # The forms of a union (dial, hub, ...; a number, a mapping) stand behind their field; people do not write them.
    shown = [part for i, part in enumerate(parts) if not (i and parts[i - 1] == "data") and not _is_form(part)]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in shown)
    return text.removeprefix(".")


def _known_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Fields that could stand in the place of the last part of `location`."""
    models = [model]
    for part in location[:-1]:
        kinds = [each for each in models if "kind" in each.model_fields and each.model_fields["kind"].default == part]
        if kinds:
            models = kinds
            continue
        if not any(str(part) in each.model_fields for each in models):  # a name of the user, such as that of a start
            continue
        annotations = [each.model_fields[str(part)].annotation for each in models if str(part) in each.model_fields]
        nested = [type_ for annotation in annotations for type_ in (annotation, *get_args(annotation))]
        models = [type_ for type_ in nested if isinstance(type_, type) and issubclass(type_, BaseModel)]
    known = [name for each in models for name in each.model_fields]
    return [*known, *GROUPS, "tuning"] if len(location) == 1 and model is StudySpec else known


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
