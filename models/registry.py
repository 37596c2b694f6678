"""Family and variant -> network and FLOPs.

A new family is one file with a `Family` and one line in `FAMILIES`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from models import hybrid, lstm, mixer, mlp, resnet, vit
from models.external import (
    TIMM_PREFIX,
    NetworkBuilder,
    build_outside,
    build_timm,
    check_same_weights,
    installed_families,
    load_builder,
    load_installed_family,
)
from models.families import HEADS, Family, Head
from models.flops import ForwardFlops, linear_flops
from models.layout import Layout, ResizableLayout
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
    found = _find(family)
    return found.variants() if isinstance(found, Family) else ()


def build_network(
    family: str,
    variant: str,
    *,
    image_size: int,
    in_channels: int,
    num_classes: int,
    designed_for: int | None = None,
    head: Head = "linear",
) -> nn.Module:
    """Build an untrained network.

    Args:
        family: one of `family_names`, ``timm:NAME`` or ``package.module:build``.
        variant: ``<tier>`` or ``<tier>-<form>``, one of ``variants(family)``.
        image_size: side of the square images in pixels.
        in_channels: channels of the images.
        num_classes: outputs of the classifier.
        designed_for: side of the images that the network's sizes are solved for; None for ``image_size`` itself. What
            is designed for 16 px and built for 32 px has the weights of the former, only its positions are others.
        head: ``linear``, or ``hidden`` with one hidden layer (`models.head`).

    Returns:
        A network from float images ``[B, C, H, W]`` to logits ``[B, num_classes]``. The classifier of the built-in
        families is zero, so that an untrained network predicts all classes alike.

    Raises:
        ValueError: family, variant, image size, channels, classes or head are not possible, or the family cannot be
            applied to images of another size than it is designed for.
    """
    _check_images(image_size, in_channels, num_classes, designed_for)
    _check_head(head)
    found = _find(family)
    if isinstance(found, Family):
        layout = layout_of(family, variant, image_size=image_size, in_channels=in_channels, designed_for=designed_for)
        network = found.build(layout, num_classes)
    else:
        build = partial(build_outside, family, found, variant, in_channels=in_channels, num_classes=num_classes)
        if designed_for is not None and designed_for != image_size:
            check_same_weights(family, build, designed_for, image_size)
        network = build(image_size=image_size)
    if head == "hidden":
        from models.head import give_hidden_head

        give_hidden_head(network)
    return network


def forward_flops(
    family: str,
    variant: str,
    *,
    image_size: int,
    in_channels: int,
    num_classes: int,
    designed_for: int | None = None,
    head: Head = "linear",
) -> ForwardFlops:
    """Forward FLOPs per example, a multiply-add counted as two.

    By arithmetic alone, without torch, for the families that have layouts; a family from outside is built on the meta
    device and counted there. Arguments and errors are those of `build_network`.
    """
    _check_images(image_size, in_channels, num_classes, designed_for)
    _check_head(head)
    layout = layout_of(family, variant, image_size=image_size, in_channels=in_channels, designed_for=designed_for)
    if layout is None:
        return _counted_flops(family, variant, image_size, in_channels, num_classes, designed_for, head)
    flops = layout.forward_flops(num_classes)
    if head == "linear":
        return flops
    # A linear classifier spends one multiply-add on every feature and class.
    num_features = (layout.forward_flops(2).total - layout.forward_flops(1).total) // 2
    return replace(flops, total=flops.total + linear_flops(num_features, num_features))


@cache
def _counted_flops(
    family: str,
    variant: str,
    image_size: int,
    in_channels: int,
    num_classes: int,
    designed_for: int | None,
    head: Head,
) -> ForwardFlops:
    from models.counter import count_flops, on_meta_device

    with on_meta_device():
        network = build_network(
            family,
            variant,
            image_size=image_size,
            in_channels=in_channels,
            num_classes=num_classes,
            designed_for=designed_for,
            head=head,
        )
    shape = (2, in_channels, image_size, image_size)
    try:
        return count_flops(network, shape)
    except ValueError:
        raise
    except Exception as error:  # whatever the forward of a network from outside may raise
        raise ValueError(
            f"{family}: its network cannot be applied to images {list(shape)} on the meta device, where its FLOPs are "
            f"counted: {type(error).__name__}: {error}"
        ) from error


def _find(name: str) -> Family | NetworkBuilder:
    if name in FAMILIES:
        return FAMILIES[name]
    if name.startswith(TIMM_PREFIX):
        return partial(build_timm, name.removeprefix(TIMM_PREFIX))
    if ":" in name:
        return load_builder(name)
    if name in installed_families():
        return load_installed_family(name)
    raise ValueError(
        f"unknown family {name!r}{_closest(name, family_names())}; expected one of {', '.join(family_names())}, "
        "timm:NAME, or package.module:build"
    )


def layout_of(
    family: str, variant: str, *, image_size: int, in_channels: int, designed_for: int | None = None
) -> Layout | None:
    """All sizes of a network except its number of classes; None for a family from outside, which has no layout.

    Args:
        family: one of `family_names`, ``timm:NAME`` or ``package.module:build``.
        variant: one of ``variants(family)``.
        image_size: side of the images in pixels.
        in_channels: channels of the images.
        designed_for: side of the images that the sizes are solved for; None for ``image_size`` itself.

    Raises:
        ValueError: they are not possible, or the family cannot be applied to images of another size.
    """
    found = _find(family)
    if not isinstance(found, Family):
        return None
    layout = _layout(found, variant, designed_for or image_size, in_channels)
    if designed_for in (None, image_size):
        return layout
    reason = "its layout has no method at(image_size)"
    if isinstance(layout, ResizableLayout):
        try:
            resized: Layout = layout.at(image_size)
        except ValueError as error:
            reason = str(error)
        else:
            return resized
    raise ValueError(
        f"family {family!r}, variant {variant!r}, designed for {designed_for} px, cannot be applied to {image_size} "
        f"px: {reason}"
    )


@cache
def _layout(family: Family, variant: str, image_size: int, in_channels: int) -> Layout:
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
        layout: Layout = family.layout(tier, form, image_size, in_channels)
    except ValueError as error:
        raise ValueError(
            f"family {family.name!r}, variant {variant!r}, {in_channels} x {image_size} x {image_size} images: {error}"
        ) from error
    return layout


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


def _check_images(image_size: int, in_channels: int, num_classes: int, designed_for: int | None) -> None:
    for field, value, least in (
        ("image_size", image_size, 1),
        ("in_channels", in_channels, 1),
        ("num_classes", num_classes, 2),
        ("designed_for", image_size if designed_for is None else designed_for, 1),
    ):
        if value < least:
            raise ValueError(f"{field}={value}: expected at least {least}")


def _check_head(head: str) -> None:
    if head not in HEADS:
        raise ValueError(f"head={head!r}: expected {' or '.join(HEADS)}")
