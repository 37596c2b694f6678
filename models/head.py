"""The classifier every network ends in, and the features it reads.

``linear`` is one zero-initialised linear map. ``hidden`` is the head that vision transformers are pretrained with, "a
MLP with one hidden layer at pre-training time" (Dosovitskiy et al. 2010.11929, section 3.1): a tanh layer (appendix
D.3) of the width of the features before it. Fine-tuning removes a pretrained head as a whole, both layers, and begins
with a zero linear one (section 3.2, appendix B.1.1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_USUAL_NAMES = ("head", "classifier", "fc")


def zero_initialized(classifier: nn.Linear) -> nn.Linear:
    """Set weights and bias of a linear classifier to zero, so that an untrained network predicts all classes alike.

    Every family then starts from the same loss, ``log(num_classes)``, whatever the scale of its features
    (Dosovitskiy et al. 2010.11929, section 3.2 do this for fine-tuning).
    """
    nn.init.zeros_(classifier.weight)
    if classifier.bias is not None:
        nn.init.zeros_(classifier.bias)
    return classifier


class HiddenHead(nn.Module):
    """A classifier with one hidden layer: ``linear(tanh(hidden(features)))``.

    The hidden layer begins as the paper's code begins its own (LeCun-normal weights, no bias), the linear one at zero.

    Args:
        num_features: width of the features and of the hidden layer.
        num_classes: outputs.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_features, num_features)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="linear")  # variance 1 / num_features
        nn.init.zeros_(self.hidden.bias)
        self.activation = nn.Tanh()
        self.linear = zero_initialized(nn.Linear(num_features, num_classes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Classify features ``[B, num_features]`` -> logits ``[B, num_classes]``."""
        logits: torch.Tensor = self.linear(self.activation(self.hidden(features)))
        return logits


def give_hidden_head(network: nn.Module) -> None:
    """Replace the linear classifier of a network by a `HiddenHead` of as many classes.

    Raises:
        ValueError: the network has no linear classifier.
    """
    name = classifier_name(network)
    linear = network.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"{type(network).__name__} already ends in a {type(linear).__name__}, expected a linear layer")
    network.set_submodule(name, HiddenHead(linear.in_features, linear.out_features))


def clear_classifier(network: nn.Module) -> None:
    """Set the classifier of a network to zero: the last layer of a `HiddenHead`, else the linear layer itself.

    Raises:
        ValueError: the network's classifier cannot be found.
    """
    classifier = network.get_submodule(classifier_name(network))
    zero_initialized(classifier.linear if isinstance(classifier, HiddenHead) else classifier)  # type: ignore[arg-type]


def classifier_name(network: nn.Module) -> str:
    """Where a network keeps what turns its features into logits: the dotted name of a linear layer or `HiddenHead`.

    Asked of ``get_classifier()`` where the network has it, as timm's have; else it is the module called ``head``,
    ``classifier`` or ``fc``, or the last one of a `torch.nn.Sequential`. Of a module made of several layers it is the
    last linear one.

    Raises:
        ValueError: there is none, or several.
    """
    found = _classifier_module(network)
    if found is None:
        raise ValueError(
            f"the classifier of {type(network).__name__} cannot be found: expected a method get_classifier() that "
            f"returns one module, or a module named {', '.join(_USUAL_NAMES[:-1])} or {_USUAL_NAMES[-1]}"
        )
    outer = next(name for name, module in network.named_modules() if module is found)
    hidden, linear = (
        [name for name, module in found.named_modules() if isinstance(module, kind)] for kind in (HiddenHead, nn.Linear)
    )
    if not (hidden or linear):
        raise ValueError(
            f"the classifier of {type(network).__name__} is a {type(found).__name__} without a linear layer: its "
            "features cannot be told from its logits"
        )
    return ".".join(part for part in (outer, (hidden or linear)[-1]) if part)


@torch.inference_mode()
def features(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a network's classifier reads, with dropout off and norms in evaluation mode; the mode is put back after.

    Args:
        network: any network whose classifier `classifier_name` finds; a hidden layer of the head is part of the
            classifier, so that networks pretrained with either head are asked for the same features.
        images: float ``[B, C, H, W]``.

    Returns:
        Features ``[B, D]``.

    Raises:
        ValueError: the classifier is not found, or is not what gives the logits.
    """
    name = classifier_name(network)
    seen: list[tuple[torch.Tensor, object]] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        del module
        seen.append((inputs[0], output))

    hook = network.get_submodule(name).register_forward_hook(look)
    modes = [(module, module.training) for module in network.modules()]
    try:
        logits = network.eval()(images)
    finally:
        hook.remove()
        for module, mode in modes:
            module.training = mode
    if len(seen) != 1 or seen[0][1] is not logits:
        raise ValueError(
            f"layer {name!r} of {type(network).__name__} is not its classifier: expected the logits to be what this "
            "layer returns, once"
        )
    return seen[0][0].flatten(1)


def _classifier_module(network: nn.Module) -> nn.Module | None:
    if hasattr(network, "get_classifier"):
        timm_model: Any = network
        own = timm_model.get_classifier()
        return own if isinstance(own, nn.Module) else None
    for name in _USUAL_NAMES:
        if isinstance(module := getattr(network, name, None), nn.Module):
            return module
    return network[-1] if isinstance(network, nn.Sequential) and len(network) else None
