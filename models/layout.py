"""The sizes of a network, by arithmetic and without weights, and what follows from them in every family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, Self, runtime_checkable

from models.flops import ForwardFlops, linear_flops


class Layout(Protocol):
    """All sizes of one network except its number of classes. Holds no weights and needs no torch.

    One that is no `ResizableLayout` belongs to a family that cannot change the size of its images.
    """

    def forward_flops(self, num_classes: int) -> ForwardFlops:
        """Forward FLOPs per example with a linear classifier of ``num_classes`` outputs."""
        ...


@runtime_checkable
class ResizableLayout(Layout, Protocol):
    """A layout that says what becomes of its network at another image size."""

    def at(self, image_size: int) -> Any:  # noqa: ANN401  # a layout of its own kind
        """The same network, weight for weight but for its positions, applied to images of ``image_size`` pixels.

        Raises:
            ValueError: the network cannot be applied to such images; says why.
        """
        ...


class FeatureLayout(ABC):
    """A layout whose network reads ``width`` features of an image and ends in a classifier of them."""

    width: int

    @abstractmethod
    def feature_flops(self) -> ForwardFlops:
        """Forward FLOPs per example without the classifier."""

    def forward_flops(self, num_classes: int) -> ForwardFlops:
        """Forward FLOPs per example with a linear classifier of ``num_classes`` outputs."""
        features = self.feature_flops()
        return ForwardFlops(features.total + linear_flops(self.width, num_classes), features.first_layer)


class OneSizeLayout(FeatureLayout):
    """A layout whose network has weights of its own for the places of ``image_size`` pixels, and for no others."""

    image_size: int

    @abstractmethod
    def why_one_size(self) -> str:
        """Which weights those are, and what to do instead."""

    def at(self, image_size: int) -> Self:
        """The network itself, which is for one image size.

        Raises:
            ValueError: another size is asked for.
        """
        if image_size != self.image_size:
            raise ValueError(self.why_one_size())
        return self
