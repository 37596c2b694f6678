"""Networks and images whose probes have answers that can be told beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import build_network, classifier_name, features
from studies.probes import Probed, Reading

SIZE = 16
FAMILIES = ("vit", "resnet", "hybrid", "mixer", "lstm", "mlp")


def images(count: int = 8, channels: int = 1, size: int = SIZE, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def batches_of(pictures: Tensor, labels: Tensor | None = None, batch_size: int = 5) -> list[tuple[Tensor, Tensor]]:
    classes = torch.zeros(len(pictures), dtype=torch.int64) if labels is None else labels
    return list(zip(pictures.split(batch_size), classes.split(batch_size), strict=True))


def nano(family: str, form: str = "", classes: int = 5, **options: Any) -> nn.Module:
    """A nano network whose classifier is random instead of zero, and has no favourite class."""
    torch.manual_seed(0)
    variant = f"nano-{form}" if form else "nano"
    sizes = {"image_size": SIZE, "in_channels": 1, "num_classes": classes} | options
    network = build_network(family, variant, **sizes)
    classifier: Any = network.get_submodule(classifier_name(network))
    nn.init.normal_(classifier.weight)
    seen = features(network, images(50, sizes["in_channels"], sizes["image_size"]))
    classifier.bias.data = -seen.mean(0).clone() @ classifier.weight.data.T
    return network


def convolutional(
    activation: Callable[[], nn.Module], *, padding_mode: str = "circular", depth: int = 2, pooled: bool = True
) -> nn.Sequential:
    """3 x 3 convolutions of 4 channels, all of stride 1, and a classifier of 3 classes."""
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Conv2d(4 if index else 1, 4, 3, padding=1, padding_mode=padding_mode), activation()]
    if pooled:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*layers)


class Logits(nn.Module):
    """A classifier that is a function of the images."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, pictures: Tensor) -> Tensor:
        return self.function(pictures)


def values(found: Probed, quantity: str) -> dict[Any, float]:
    """A quantity by layer and setting, or by what there is of the two."""
    chosen = [reading for reading in found.readings if reading.quantity == quantity]

    def key(reading: Reading) -> Any:
        by_layer = len({other.layer for other in chosen}) > 1
        return reading.layer if by_layer or reading.setting is None else reading.setting

    found_values = {key(reading): reading.value for reading in chosen}
    assert len(found_values) == len(chosen)
    return found_values


@contextmanager
def left_as_it_was(network: nn.Module) -> Iterator[None]:
    """Mode of every module, hooks, gradients and weights are afterwards what they were."""

    def state() -> Any:
        return [
            (module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
            for module in network.modules()
        ] + [(parameter.requires_grad, parameter.grad is None) for parameter in network.parameters()]

    network.train()
    next(network.modules()).training = True
    last = list(network.modules())[-1]
    last.training = False  # a mixed mode, as of a network with a frozen norm
    before, weights = state(), {name: value.clone() for name, value in network.state_dict().items()}
    yield
    assert state() == before
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def breaks_in_the_middle(network: nn.Sequential, after: int) -> nn.Sequential:
    """The same network, that raises after so many passes."""
    passes = iter(range(after))

    def count(module: nn.Module, given: object) -> None:
        if next(passes, None) is None:
            raise RuntimeError("out of passes")

    network[-1].register_forward_pre_hook(count)
    return network


every_family = pytest.mark.parametrize("family", FAMILIES)
