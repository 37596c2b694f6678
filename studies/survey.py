"""What the arms of a study cost: FLOPs by arithmetic, parameters counted on the meta device."""

from __future__ import annotations

from datamodules import DataInfo

from .arms import parse_arm
from .errors import ConfigError
from .planning import Arm
from .spec import StudySpec


def survey_arms(spec: StudySpec, data: DataInfo) -> dict[str, Arm]:
    """The arms of a study by name, each checked to exist for its tier and images.

    Raises:
        ConfigError: a family, form or tier that does not exist or does not suit the images; names the choices.
    """
    return {name: _survey(name, index, spec, data) for index, name in enumerate(spec.families)}


def _survey(name: str, index: int, spec: StudySpec, data: DataInfo) -> Arm:
    from models import build_network, forward_flops
    from models.counter import on_meta_device

    arm = parse_arm(name, spec.tier)
    images = {"image_size": data.image_size, "in_channels": data.in_channels, "num_classes": data.num_classes}
    try:
        flops = forward_flops(arm.family, arm.variant, **images)
        with on_meta_device():
            network = build_network(arm.family, arm.variant, **images)
    except ValueError as error:
        raise ConfigError(f"families[{index}]: {error}") from None
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    return Arm(name, arm.family, arm.variant, flops.total, flops.first_layer, num_parameters)
