"""The classifier every network ends in."""

from __future__ import annotations

from torch import nn


def zero_initialized(classifier: nn.Linear) -> nn.Linear:
    """Set weights and bias of a linear classifier to zero, so that an untrained network predicts all classes alike.

    Every family then starts from the same loss, ``log(num_classes)``, whatever the scale of its features
    (Dosovitskiy et al. 2010.11929, section 3.2 do this for fine-tuning).
    """
    nn.init.zeros_(classifier.weight)
    if classifier.bias is not None:
        nn.init.zeros_(classifier.bias)
    return classifier
