"""Family and variant -> network and FLOPs.

A new family is one file with a `Family` and one line in `FAMILIES`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from models import hybrid, lstm, mixer, mlp, resnet, vit
from models.external import (
    TIMM_PREFIX,
    NetworkBuilder,
    build_timm,
    installed_families,
    load_builder,
    load_installed_family,
)
from models.families import Family
from models.flops import ForwardFlops
from models.tiers import TIERS, split_variant

if TYPE_CHECKING:
    from torch import nn

# The order is that of figures and tables.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (vit.FAMILY, resnet.FAMILY, hybrid.FAMILY, mixer.FAMILY, lstm.FAMILY, mlp.FAMILY)
    }
)


_MOST_NAMED_VARIANTS = 24


def family_names() -> tuple[str, ...]:
    """Names of all families that can be asked for without a prefix, built-in ones first."""
    return (*FAMILIES, *(name for name in installed_families() if name not in FAMILIES))


def label(family: str) -> str:
    """How a family is written in figures; one from outside the package is written by its own name."""
    if family.startswith(TIMM_PREFIX):
        return family.removeprefix(TIMM_PREFIX)
    found = _find(family)
    return found.label if isinstance(found, Family) else family


def variants(family: str) -> tuple[str, ...]:
    """Variants of a family; empty for families from outside, which decide for themselves what a variant means.

    Raises:
        ValueError: there is no such family.
    """
    found = None if family.startswith(TIMM_PREFIX) else _find(family)
    return found.variants() if isinstance(found, Family) else ()


def build_network(family: str, variant: str, *, image_size: int, in_channels: int, num_classes: int) -> nn.Module:
    """Build an untrained network.

    Args:
        family: one of `family_names`, ``timm:NAME`` or ``package.module:build``.
        variant: ``<tier>`` or ``<tier>-<form>``, one of ``variants(family)``.
        image_size: side of the square images in pixels.
        in_channels: channels of the images.
        num_classes: outputs of the classifier.

    Returns:
        A network from float images ``[B, C, H, W]`` to logits ``[B, num_classes]``. The classifier of the built-in
        families is zero, so that an untrained network predicts all classes alike.

    Raises:
        ValueError: family, variant, image size, channels or classes are not possible.
    """
    _check_images(image_size, in_channels, num_classes)
    images = {"image_size": image_size, "in_channels": in_channels, "num_classes": num_classes}
    if family.startswith(TIMM_PREFIX):
        return build_timm(family.removeprefix(TIMM_PREFIX), **images)
    found = _find(family)
    if isinstance(found, Family):
        return found.build(_layout(found, variant, image_size, in_channels), num_classes)
    return _built_outside(family, found, variant, images)


def _built_outside(family: str, builder: NetworkBuilder, variant: str, images: dict[str, int]) -> nn.Module:
    """The network of a user's function, whose mistakes are told as such."""
    from torch import nn

    try:
        network = builder(variant=variant, **images)
    except Exception as error:
        raise ValueError(
            f"family {family!r} cannot be built: {type(error).__name__}: {error}; expected a function "
            "build(variant, image_size, in_channels, num_classes)"
        ) from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"family {family!r} gave a {type(network).__name__}, expected a torch.nn.Module")
    return network


def forward_flops(family: str, variant: str, *, image_size: int, in_channels: int, num_classes: int) -> ForwardFlops:
    """Forward FLOPs per example, a multiply-add counted as two.

    By arithmetic alone, without torch, for the families that have layouts; a family from outside is built on the meta
    device and counted there.

    Raises:
        ValueError: family, variant, image size, channels or classes are not possible.
    """
    _check_images(image_size, in_channels, num_classes)
    if not family.startswith(TIMM_PREFIX):
        found = _find(family)
        if isinstance(found, Family):
            flops: ForwardFlops = _layout(found, variant, image_size, in_channels).forward_flops(num_classes)
            return flops
    return _counted_flops(family, variant, image_size, in_channels, num_classes)


@cache
def _counted_flops(family: str, variant: str, image_size: int, in_channels: int, num_classes: int) -> ForwardFlops:
    from models.counter import count_flops, on_meta_device

    with on_meta_device():
        network = build_network(
            family, variant, image_size=image_size, in_channels=in_channels, num_classes=num_classes
        )
    return count_flops(network, (2, in_channels, image_size, image_size))


def _find(name: str) -> Family | NetworkBuilder:
    if name in FAMILIES:
        return FAMILIES[name]
    if ":" in name:
        return load_builder(name)
    if name in installed_families():
        return load_installed_family(name)
    raise ValueError(
        f"unknown family {name!r}{_closest(name, family_names())}; expected one of {', '.join(family_names())}, "
        "timm:NAME, or package.module:build"
    )


@cache
def _layout(family: Family, variant: str, image_size: int, in_channels: int) -> Any:  # noqa: ANN401  # any Layout
    """Sizes of a variant, after checking that the family has it and that its tier takes such images."""
    tier_name, form = split_variant(variant)
    reason = dict(family.refused_tiers).get(tier_name)
    if reason is not None:
        raise ValueError(f"family {family.name!r} has no variant {variant!r}: {reason}")
    if variant not in family.variants():
        reason = family.refusal(tier_name, form) if family.refusal is not None and tier_name in TIERS else None
        raise ValueError(
            f"family {family.name!r} has no variant {variant!r}{_closest(variant, family.variants())}; "
            f"{reason or f'expected {_expected(family)}'}"
        )
    tier = TIERS[tier_name]
    if image_size not in tier.patch_sizes:
        fitting = [other.name for other in TIERS.values() if image_size in other.patch_sizes]
        advice = f"use {' or '.join(fitting)}" if fitting else "resize the images"
        raise ValueError(
            f"image size {image_size} px does not suit the tier {tier_name!r}, which is for "
            f"{', '.join(map(str, tier.patch_sizes))} px: {advice}"
        )
    try:
        return family.layout(tier, form, image_size, in_channels)
    except ValueError as error:
        raise ValueError(
            f"family {family.name!r}, variant {variant!r}, {in_channels} x {image_size} x {image_size} images: {error}"
        ) from error


def _expected(family: Family) -> str:
    """The variants of a family in words; of many, how they are written."""
    choices = family.variants()
    if len(choices) <= _MOST_NAMED_VARIANTS:
        return f"one of {', '.join(choices)}"
    tiers = [variant for variant in choices if not split_variant(variant)[1]]
    return f"one of {', '.join(tiers)}, alone or with one of {len(family.forms)} forms, as in {choices[len(tiers)]!r}"


def _closest(name: str, choices: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.4)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _check_images(image_size: int, in_channels: int, num_classes: int) -> None:
    for field, value, least in (
        ("image_size", image_size, 1),
        ("in_channels", in_channels, 1),
        ("num_classes", num_classes, 2),
    ):
        if value < least:
            raise ValueError(f"{field}={value}: expected at least {least}")
