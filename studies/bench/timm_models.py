"""Puts the networks of this package into timm's registry, so that timm's own `train.py` can train them.

Importing this module is what registers them: `train.py --device-modules studies.bench.timm_models --model NAME`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from timm.models import register_model
from torch import nn

from models import FAMILIES, TIERS, build_network, split_variant


def timm_name(family: str, variant: str, image_size: int) -> str:
    """What a network is called in timm's registry: `vit`, `nano`, 32 -> `vit_nano_32`."""
    return re.sub(r"\W", "_", f"{family}_{variant}_{image_size}")


def _register(family: str, variant: str, image_size: int) -> None:
    def build(pretrained: bool = False, *, in_chans: int = 3, num_classes: int = 1000, **options: Any) -> nn.Module:  # noqa: ANN401  # what else timm passes
        del pretrained, options
        return build_network(family, variant, image_size=image_size, in_channels=in_chans, num_classes=num_classes)

    entry: Callable[..., nn.Module] = build
    entry.__name__ = timm_name(family, variant, image_size)
    register_model(entry)


__all__: list[str] = []  # timm adds the names it registers
for _family in FAMILIES.values():
    for _variant in _family.variants():
        for _image_size in TIERS[split_variant(_variant)[0]].patch_sizes:
            _register(_family.name, _variant, _image_size)
