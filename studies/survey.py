"""What the arms of a study cost: FLOPs by arithmetic, parameters counted on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datamodules import DataInfo

from .arms import ArmName, parse_arm
from .errors import ConfigError
from .grid import Arm
from .spec import StudySpec


def survey_arms(spec: StudySpec, data: DataInfo, designs: Mapping[str, int] | None = None) -> dict[str, Arm]:
    """The arms of a study by name, each checked to exist for its tier and images.

    Args:
        spec: the study.
        data: what it is trained on.
        designs: by start, pixels of the images that its networks are sized for.

    Raises:
        ConfigError: a family, form or tier that does not exist or does not suit the images or the objective; names the
            choices.
    """
    for index, name in enumerate(spec.families):
        _check_layout(name, index, spec, data, designs or {})
    return {name: _survey(name, index, spec, data, designs or {}) for index, name in enumerate(spec.families)}


def _check_layout(name: str, index: int, spec: StudySpec, data: DataInfo, designs: Mapping[str, int]) -> None:
    """Names a form that does not exist by arithmetic alone, before seconds are spent on loading torch."""
    from models import layout_of

    arm, designed_for = _designed(name, spec, data, designs)
    if ":" in arm.family:  # no layout, and code from outside that may itself load torch
        return
    images = {"image_size": data.image_size, "in_channels": data.in_channels}
    try:
        layout_of(arm.family, arm.variant, **images, designed_for=designed_for)
    except ValueError as error:
        raise ConfigError(f"families[{index}]: {error}") from None


def _designed(name: str, spec: StudySpec, data: DataInfo, designs: Mapping[str, int]) -> tuple[ArmName, int | None]:
    """An arm taken apart, and the pixels it is sized for where these are not the study's."""
    arm = parse_arm(name, spec.tier)
    designed_for = spec.designed_for if arm.start is None else designs[arm.start]
    return arm, None if designed_for == data.image_size else designed_for


def _survey(name: str, index: int, spec: StudySpec, data: DataInfo, designs: Mapping[str, int]) -> Arm:
    from models import build_network, forward_flops
    from models.counter import on_meta_device

    arm, designed_for = _designed(name, spec, data, designs)
    images: dict[str, Any] = {"image_size": data.image_size, "in_channels": data.in_channels}
    rest: dict[str, Any] = {"num_classes": data.num_classes, "designed_for": designed_for, "head": spec.head}
    try:
        with on_meta_device():
            network = build_network(arm.family, arm.variant, **images, **rest)
        flops = forward_flops(arm.family, arm.variant, **images, **rest)
        if spec.objective == "masked_patches":
            from models import MaskedPatchNetwork, masked_patch_flops

            with on_meta_device():
                network = MaskedPatchNetwork(network)
            flops = masked_patch_flops(arm.family, arm.variant, **images)
    except ValueError as error:
        raise ConfigError(f"families[{index}]: {error}") from None
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    return Arm(name, arm.family, arm.variant, flops.total, flops.first_layer, num_parameters, arm.start, designed_for)
