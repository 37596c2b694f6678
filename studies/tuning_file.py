"""A finished tuning as one YAML file: written for people, a trial per line, and refused where it was altered."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from .errors import ConfigError
from .files import write_text
from .tuned import Tuning

HEAD = """\
# The tuning of {name}, written by `study tune`. Another study cites it with recipe.tuning=<this file>.
# sha256 is of its content: an edited file is refused. To use other values, set recipe.learning_rate instead.
"""


def read_tuning(reference: str) -> Tuning:
    """The tuning that `recipe.tuning` names: one that ships in `configs/tuning`, or the path of a file.

    Raises:
        ConfigError: there is none, it is not a tuning, or it was altered.
    """
    path = shipped_tunings().get(reference, Path(reference))
    try:
        content = yaml.safe_load(path.read_text())
        tuning = Tuning.model_validate(content)
    except OSError as error:
        shipped = ", ".join(shipped_tunings()) or "none"
        raise ConfigError(
            f"recipe.tuning: {reference!r} is neither a shipped tuning (there are: {shipped}) nor a file that can be "
            f"read ({error.strerror}); `study tune` writes one"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe.tuning: {path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ConfigError(f"recipe.tuning: {path} is not a tuning: {where}: {first['msg']}") from None
    if tuning.sha256 != tuning.digest():
        raise ConfigError(
            f"recipe.tuning: {path} was altered: its content has the hash {tuning.digest()[:12]}, not "
            f"{tuning.sha256[:12] or 'none'} as it says; write it again with `study tune`, or set recipe.learning_rate "
            "and recipe.weight_decay instead"
        )
    return tuning


def write_tuning(tuning: Tuning, path: Path) -> Path:
    """Writes a sealed tuning, a trial per line."""
    content = tuning.model_dump(mode="json")
    content["rules"]["replicates"] = _OneLine(content["rules"]["replicates"])
    for arm, sizes in content["arms"].items():
        for point in sizes.values():
            point["trials"] = [_OneLine(trial) for trial in point["trials"]]
        content["arms"][arm] = {int(size): point for size, point in sizes.items()}  # JSON made texts of them
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120, default_flow_style=False, allow_unicode=True)
    write_text(path, HEAD.format(name=tuning.name) + text)
    return path


def shipped_tunings() -> dict[str, Path]:
    """Name -> file of the tunings in `configs/tuning`."""
    folder = Path(str(importlib.resources.files("configs"))) / "tuning"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def is_name(reference: str) -> bool:
    """Whether `recipe.tuning` is a name and not a path."""
    return re.fullmatch(r"[\w-]+", reference) is not None


class _OneLine(dict[str, Any]):
    """A mapping that YAML writes on one line."""


class _Dumper(yaml.SafeDumper):
    """Writes as people would: trials and short lists of plain values on one line."""

    def represent_sequence(
        self, tag: str, sequence: Iterable[Any], flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        values = list(sequence)
        short = not any(isinstance(value, dict) for value in values) and len(str(values)) < 100
        return super().represent_sequence(tag, values, flow_style=short)


_Dumper.add_representer(
    _OneLine, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
)
