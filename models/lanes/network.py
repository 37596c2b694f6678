"""Many networks of one architecture as one module."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from models.lanes.branches import LaneStreams
from models.lanes.stacking import ImageShape, stack, why_not_stacked

LaneKind = Literal["stacked", "branches"]


class LaneNetwork(nn.Module, ABC):
    """``L`` networks of one architecture: images ``[L, B, C, H, W]`` to logits ``[L, B, K]``.

    Attributes:
        kind: ``stacked`` (one matrix product for all lanes) or ``branches`` (networks side by side).
        num_lanes: ``L``.
        solo: what one lane is: a solo network on the meta device, which has names and shapes and no weights.
    """

    kind: LaneKind

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.num_lanes = len(networks)
        self._solo = (copy.deepcopy(networks[0]).to("meta"),)  # in a tuple: it is no part of this module

    @property
    def solo(self) -> nn.Module:
        """One lane without its weights."""
        return self._solo[0]

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classify every lane's images ``[L, B, C, H, W]`` by its own network -> ``[L, B, K]``."""

    @abstractmethod
    def lane_tensors(self, lane: int) -> dict[str, torch.Tensor]:
        """A lane's weights and buffers under the solo network's names: the memory itself, not copies."""

    @abstractmethod
    def trained(self) -> Iterator[tuple[str, int | None, nn.Parameter]]:
        """Every parameter: its name in the solo network, its lane (None: all, ``[L, ...]``), and itself."""

    def lane_state(self, lane: int) -> dict[str, torch.Tensor]:
        """Copies of a lane's weights and buffers: the solo network's state dictionary."""
        return {name: tensor.clone() for name, tensor in self.lane_tensors(lane).items()}

    def load_lane(self, lane: int, state: Mapping[str, torch.Tensor]) -> None:
        """Copy a solo network's state dictionary into a lane, in place, so that a captured CUDA graph stays valid.

        Raises:
            ValueError: names or shapes are not those of the lane.
        """
        tensors = self.lane_tensors(lane)
        if tensors.keys() != state.keys():
            odd = sorted(tensors.keys() ^ state.keys())
            raise ValueError(
                f"lane {lane}: the state is of another architecture: {', '.join(odd[:3])}"
                f"{' ...' if len(odd) > 3 else ''} is on one side only; expected a state dictionary of "
                f"{type(self.solo).__name__}"
            )
        for name, tensor in tensors.items():
            if tensor.shape != state[name].shape:
                raise ValueError(
                    f"lane {lane}: {name} has shape {list(state[name].shape)}, expected {list(tensor.shape)}"
                )
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(state[name])


class StackedLanes(LaneNetwork):
    """Lanes whose every layer holds the weights of all lanes and is one batched matrix product."""

    kind: LaneKind = "stacked"

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__(networks)
        self.stacked = stack(networks)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classify ``[L, B, C, H, W]`` -> ``[L, B, K]``."""
        logits: torch.Tensor = self.stacked(images.flatten(0, 1))
        return logits.view(self.num_lanes, -1, *logits.shape[1:])

    def lane_tensors(self, lane: int) -> dict[str, torch.Tensor]:
        """Views of a lane's slice of every stacked weight."""
        return {name: tensor[lane] for name, tensor in self.stacked.state_dict().items()}

    def trained(self) -> Iterator[tuple[str, int | None, nn.Parameter]]:
        """The stacked parameters, each for all lanes."""
        for name, parameter in self.stacked.named_parameters():
            yield name, None, parameter


class BranchLanes(LaneNetwork):
    """Lanes that are networks of their own: side by side on CUDA streams, in turn on a CPU."""

    kind: LaneKind = "branches"

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__(networks)
        self.branches = nn.ModuleList(copy.deepcopy(network) for network in networks)
        self._streams = LaneStreams(self.num_lanes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classify ``[L, B, C, H, W]`` -> ``[L, B, K]``."""
        with self._streams.fork(images) as on_stream:
            logits = []
            for lane, branch in enumerate(self.branches):
                with on_stream(lane):
                    logits.append(branch(images[lane]))
        return torch.stack(logits)

    def lane_tensors(self, lane: int) -> dict[str, torch.Tensor]:
        """A branch's own weights and buffers."""
        tensors: dict[str, torch.Tensor] = self.branches[lane].state_dict()
        return tensors

    def trained(self) -> Iterator[tuple[str, int | None, nn.Parameter]]:
        """Every branch's parameters."""
        for lane, branch in enumerate(self.branches):
            for name, parameter in branch.named_parameters():
                yield name, lane, parameter


def build_lanes(
    networks: Sequence[nn.Module], kind: LaneKind | None = None, *, image_shape: ImageShape | None = None
) -> LaneNetwork:
    """Make one module of several networks of one architecture.

    The networks are copied; their weights are the lanes' first weights. `why_no_lanes` tells which networks must not
    come here.

    Args:
        networks: solo networks, as `build_network` makes them, on one device.
        kind: how; None takes ``stacked`` where every layer has a stacked form, else ``branches``.
        image_shape: ``(C, H, W)``; if given, `why_not_stacked` also proves the stacked form on random images.

    Raises:
        ValueError: no network, networks of different architectures, or ``stacked`` asked for where it cannot be.
    """
    if not networks:
        raise ValueError("no network given: lanes are made of at least one")
    _check_alike(networks)
    reason = why_not_stacked(networks[0], image_shape) if kind != "branches" else None
    if kind == "stacked" and reason is not None:
        raise ValueError(f"{type(networks[0]).__name__} cannot be stacked: {reason}; use kind='branches'")
    if kind == "branches" or reason is not None:
        return BranchLanes(networks)
    return StackedLanes(networks)


def _check_alike(networks: Sequence[nn.Module]) -> None:
    """All networks have the layers, names and shapes of the first."""
    first = {name: tensor.shape for name, tensor in networks[0].state_dict().items()}
    for lane, network in enumerate(networks):
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        if shapes != first:
            odd = next(name for name in [*first, *shapes] if first.get(name) != shapes.get(name))
            raise ValueError(f"lane {lane} is of another architecture than lane 0: they differ in {odd!r}")
        if str(network) != str(networks[0]):
            raise ValueError(f"lane {lane} is of another architecture than lane 0: layers have other settings")
