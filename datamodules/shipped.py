"""The data sets that come with the package: one YAML file each in `configs/data`."""

from importlib.resources import files
from typing import Any

import yaml

from datamodules.info import DataError


def shipped_names() -> tuple[str, ...]:
    """Names of the shipped data sets in alphabetical order."""
    folder = files("configs") / "data"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def shipped_data(name: str) -> dict[str, Any]:
    """The content of a shipped data file, ready for `parse_data`.

    Raises:
        DataError: There is no such file.
    """
    if name not in shipped_names():
        raise DataError(f"there is no data set named {name!r}; shipped are {', '.join(shipped_names())}")
    content = yaml.safe_load((files("configs") / "data" / f"{name}.yaml").read_text())
    return dict(content)
