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

# Parts of the names of tensors that timm's own loading resizes to another grid of tokens.
_POSITIONS_OF_TIMM = ("pos_embed", "rel_pos", "relative_position", "attn_mask")


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
    if not all(part.isidentifier() for part in (*module_name.split("."), function_name)):
        raise ValueError(f"family {family!r}: names no function; expected package.module:function")
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


def build_outside(
    family: str, builder: NetworkBuilder, variant: str, *, image_size: int, in_channels: int, num_classes: int
) -> nn.Module:
    """The network of a family from outside; mistakes of a user's function are told as such.

    Raises:
        ValueError: it cannot be built, or is no network.
    """
    from torch import nn

    images = {"image_size": image_size, "in_channels": in_channels, "num_classes": num_classes}
    try:
        network = builder(variant=variant, **images)
    except Exception as error:
        if family.startswith(TIMM_PREFIX):  # `build_timm` has said what is wrong
            raise
        raise ValueError(
            f"family {family!r} cannot be built: {type(error).__name__}: {error}; expected a function "
            "build(variant, image_size, in_channels, num_classes)"
        ) from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"family {family!r} gave a {type(network).__name__}, expected a torch.nn.Module")
    return network


def check_same_weights(family: str, build: NetworkBuilder, designed_for: int, image_size: int) -> None:
    """Make sure that a family from outside has the same weights at two image sizes, but for a timm model's positions.

    Args:
        family: its name.
        build: ``build(image_size=...)`` gives its network; called on the meta device.
        designed_for: the image size that the weights come from.
        image_size: the one they are applied to.

    Raises:
        ValueError: a tensor has another shape, or exists at one size only.
    """
    from models.counter import on_meta_device

    with on_meta_device():
        before, after = (
            {name: tuple(tensor.shape) for name, tensor in build(image_size=size).state_dict().items()}
            for size in (designed_for, image_size)
        )
    known = _POSITIONS_OF_TIMM if family.startswith(TIMM_PREFIX) else ()
    for name in (*before, *after):
        if before.get(name) != after.get(name) and not any(part in name for part in known):
            shapes = [list(shape) if shape is not None else "absent" for shape in (before.get(name), after.get(name))]
            raise ValueError(
                f"family {family!r}, designed for {designed_for} px, cannot be applied to {image_size} px: its {name} "
                f"is {shapes[0]} at {designed_for} px and {shapes[1]} at {image_size} px; resize the images instead"
            )


def build_timm(name: str, *, variant: str = "", image_size: int, in_channels: int, num_classes: int) -> nn.Module:
    """Build an untrained timm model with a zero-initialised linear classifier where it has one.

    Its size is in its name, so the variant means nothing.

    Raises:
        ValueError: timm knows no such model, or cannot build it for these images.
    """
    import difflib

    import timm
    from torch import nn

    from models.head import zero_initialized

    del variant
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
