"""From files and overrides to a validated question. The only module that knows Hydra."""

from __future__ import annotations

import difflib
import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from .errors import ConfigError
from .spec import EngineSpec, StudySpec
from .tracking import TrackingSpec

GROUPS = ("study", "data", "budget", "recipe", "engine", "tracking")

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Composed:
    """A study with the settings of its run.

    Attributes:
        spec: the question; all that enters the plan.
        engine: where cells run; changes no result.
        tracking: the W&B mirror; changes no result.
    """

    spec: StudySpec
    engine: EngineSpec
    tracking: TrackingSpec


def compose_study(study: str, overrides: Sequence[str] = (), config_dir: Path | None = None) -> Composed:
    """Composes `configs/study/<study>.yaml` with overrides in Hydra's grammar, and validates the outcome.

    Args:
        study: name of a study file, packaged or in `config_dir`/study.
        overrides: such as `data=cifar10`, `data.name=/my/folder`, `num_train=[100,1000]`.
        config_dir: a folder laid out as `configs/`, searched beside the packaged one.

    Raises:
        ConfigError: an unknown study, group choice or key, or a value that is not allowed; names field and value.
    """
    _check_choice("study", study, config_dir)
    for override in overrides:
        group, _, choice = override.lstrip("+").partition("=")
        if group in GROUPS and re.fullmatch(r"[\w-]+", choice):
            _check_choice(group, choice, config_dir)
    content = _compose(study, list(overrides), config_dir)
    engine, tracking = content.pop("engine"), content.pop("tracking")
    return Composed(
        spec=validate(StudySpec, content, f"study {study}"),
        engine=validate(EngineSpec, engine, f"study {study}, engine"),
        tracking=validate(TrackingSpec, tracking, f"study {study}, tracking"),
    )


def validate(model: type[Model], content: dict[str, Any], where: str) -> Model:
    """Validates `content`, turning pydantic's report into one message that names every bad field and its value.

    Raises:
        ConfigError: with a line per bad field.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            location = _location(problem["loc"])
            if problem["type"] == "extra_forbidden":
                known = _known_fields(model, problem["loc"])
                text = f"is not a known field{_did_you_mean(str(problem['loc'][-1]), known)}"
            else:
                text = f"{problem['msg'].removeprefix('Value error, ')}"
                if not isinstance(problem["input"], dict | BaseModel):
                    text += f" (given: {problem['input']!r})"
            lines.append(f"  {location}: {text}" if location else f"  {text}")
        raise ConfigError(f"{where}:\n" + "\n".join(lines)) from None


def list_studies(config_dir: Path | None = None) -> dict[str, dict[str, Any]]:
    """Name -> top-level content of every study file, packaged first."""
    return {name: yaml.safe_load(path.read_text()) for name, path in _choices("study", config_dir).items()}


def _compose(study: str, overrides: list[str], config_dir: Path | None) -> dict[str, Any]:
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if config_dir is not None:
        overrides = [*overrides, f"hydra.searchpath=['file://{config_dir.resolve()}']"]
    try:
        # As a context manager this saves and restores the state of a Hydra application around us.
        with initialize_config_module("configs", version_base="1.3", job_name="study"):
            config = compose("base", overrides=[f"study={study}", *overrides])
        content = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_plain(error, overrides)) from None
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _plain(error: Exception, overrides: list[str]) -> str:
    message = str(error).splitlines()[0]
    bad = re.search(r"Could not override '([^']+)'", message)
    if bad is None:
        return f"{message} (overrides: {' '.join(overrides) or 'none'})"
    key = bad.group(1)
    fields = [*StudySpec.model_fields, *GROUPS]
    owner = StudySpec.model_fields.get(key.split(".")[0])
    if (
        "." in key
        and owner is not None
        and isinstance(owner.annotation, type)
        and issubclass(owner.annotation, BaseModel)
    ):
        fields = [f"{key.split('.')[0]}.{name}" for name in owner.annotation.model_fields]
    return f"{key}: is not a known field{_did_you_mean(key, fields)}"


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
        raise ConfigError(
            f"{group}: {name!r} is not known{_did_you_mean(name, list(choices))}; there are: {', '.join(choices)}"
        )


def _location(parts: tuple[int | str, ...]) -> str:
    # A discriminated union puts its tag (dial, hub, ...) behind the field; people do not write it.
    shown = [part for i, part in enumerate(parts) if not (i == 1 and parts[0] == "data")]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in shown)
    return text.removeprefix(".")


def _known_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    fields = model.model_fields
    for part in location[:-1]:
        field = fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        fields = annotation.model_fields
    return list(fields)


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
