"""Families from outside this package: a timm model by name, a function in the user's own code, an entry point.

- ``timm:resnet18``: any model of timm, untrained. Its size is in its name, so the variant is not used.
- ``package.module:build``: called as ``build(variant=..., image_size=..., in_channels=..., num_classes=...)``; returns
  a network from float ``[B, C, H, W]`` to logits ``[B, num_classes]``.
- an entry point of the group ``inductive_bias_study.families``: a `Family`, or such a function; used by its name.

The compute of these families is counted, not solved: matching a tier is up to whoever brings them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from models.families import Family

if TYPE_CHECKING:
    from torch import nn

ENTRY_POINT_GROUP = "inductive_bias_study.families"
TIMM_PREFIX = "timm:"

NetworkBuilder = Callable[..., "nn.Module"]


def installed_families() -> tuple[str, ...]:
    """Names of the families that installed packages offer as entry points."""
    return tuple(sorted(point.name for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)))


def load_installed_family(name: str) -> Family | NetworkBuilder:
    """Load the entry point ``name``.

    Raises:
        ValueError: it is neither a `Family` nor a function.
    """
    (point, *_) = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=name)
    loaded: object = point.load()
    if isinstance(loaded, Family):
        return loaded
    if callable(loaded):
        return loaded
    raise ValueError(
        f"family {name!r}: the entry point {point.value!r} is a {type(loaded).__name__}; expected a models.Family or a "
        "function build(variant=..., image_size=..., in_channels=..., num_classes=...)"
    )


def load_builder(family: str) -> NetworkBuilder:
    """Import the function named ``package.module:function``.

    Raises:
        ValueError: the module cannot be imported or has no such function.
    """
    module_name, _, function_name = family.partition(":")
    try:
        builder = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise ValueError(
            f"family {family!r}: cannot import {module_name!r} ({error}); expected package.module:function with the "
            "package installed or on PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise ValueError(f"family {family!r}: {module_name!r} has no {function_name!r}") from error
    if not callable(builder):
        raise ValueError(f"family {family!r}: {function_name!r} is a {type(builder).__name__}, expected a function")
    found: NetworkBuilder = builder
    return found


def build_timm(name: str, *, image_size: int, in_channels: int, num_classes: int) -> nn.Module:
    """Build an untrained timm model with a zero-initialised linear classifier where it has one.

    Raises:
        ValueError: timm knows no such model, or cannot build it for these images.
    """
    import difflib

    import timm
    from torch import nn

    from models.head import zero_initialized

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; closest: {', '.join(close)}" if close else ""
        raise ValueError(f"family 'timm:{name}': timm {timm.__version__} has no model {name!r}{hint}")
    config = timm.get_pretrained_cfg(name)
    size: dict[str, Any] = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    try:
        network: nn.Module = timm.create_model(name, in_chans=in_channels, num_classes=num_classes, **size)
    except (AssertionError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"family 'timm:{name}': timm cannot build it for {in_channels} x {image_size} x {image_size} images: "
            f"{error}"
        ) from error
    classifier = network.get_classifier()  # type: ignore[operator]
    if isinstance(classifier, nn.Linear):
        zero_initialized(classifier)
    return network
