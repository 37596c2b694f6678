"""The state of a solo AdamW and of a lane, in one format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, optim

from models.lanes.rows import RowLayout
from models.optimizer import build_optimizer


@dataclass(frozen=True)
class LoadedState:
    """What a solo optimiser's state says of one lane; the moments are empty before its first step."""

    step: float
    learning_rate: float
    weight_decay: float
    means: Mapping[str, torch.Tensor]
    squares: Mapping[str, torch.Tensor]


class SoloGroups:
    """How `build_optimizer` groups the parameters of a network, asked of `build_optimizer` itself.

    Args:
        solo: a solo network; needs no weights.

    Attributes:
        names: all trained parameters, those that are not decayed first.
        decayed: those that are.
        betas: decay rates of the moving averages.
        epsilon: added to the root of the second moment.
    """

    def __init__(self, solo: nn.Module) -> None:
        self._solo = solo
        optimizer = self._optimizer(learning_rate=1.0, weight_decay=1.0)
        groups = list(zip(self._group_names(optimizer), optimizer.param_groups, strict=True))
        self.decayed = [name for names, group in groups if group["weight_decay"] for name in names]
        self.names = [name for names, group in groups if not group["weight_decay"] for name in names] + self.decayed
        self.betas: tuple[float, float] = optimizer.defaults["betas"]
        self.epsilon: float = optimizer.defaults["eps"]

    def _optimizer(self, learning_rate: float, weight_decay: float) -> optim.AdamW:
        return build_optimizer(self._solo, learning_rate, weight_decay)

    def _group_names(self, optimizer: optim.AdamW) -> list[list[str]]:
        names = {id(parameter): name for name, parameter in self._solo.named_parameters()}
        return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]

    def ordered(self, weight_decay: float) -> list[str]:
        """Names in the order of the state's indices. (Without weight decay, all are in one group.)"""
        return [name for group in self._group_names(self._optimizer(1.0, weight_decay)) for name in group]

    def state_dict(
        self,
        step: float,
        learning_rate: float,
        weight_decay: float,
        means: Mapping[str, torch.Tensor],
        squares: Mapping[str, torch.Tensor],
    ) -> dict[str, Any]:
        """What ``build_optimizer(...).state_dict()`` would be at this point of a solo run, with copies of the moments.

        Args:
            step: steps taken.
            learning_rate: of the last step.
            weight_decay: on matrices.
            means: moving averages of gradients by parameter.
            squares: moving averages of squared gradients by parameter.
        """
        optimizer = self._optimizer(learning_rate, weight_decay)
        moments: dict[int, dict[str, torch.Tensor]] = {}
        if step:
            on_device = optimizer.defaults["fused"] or optimizer.defaults["capturable"]
            for index, name in enumerate(self.ordered(weight_decay)):
                device = means[name].device if on_device else "cpu"
                moments[index] = {
                    "step": torch.tensor(step, dtype=torch.float32, device=device),
                    "exp_avg": means[name].clone(),
                    "exp_avg_sq": squares[name].clone(),
                }
        return {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}


def check_state(groups: SoloGroups, layout: RowLayout, lane: int, state: Mapping[str, Any]) -> LoadedState:
    """Read a solo optimiser's state for a lane.

    Raises:
        ValueError: other parameters, shapes or constants than the lane's, or parameters at different steps.
    """
    where = f"lane {lane}: the optimiser's state"
    param_groups = state["param_groups"]
    weight_decay = max(float(group["weight_decay"]) for group in param_groups)
    learning_rate = float(param_groups[0]["lr"])
    names = groups.ordered(weight_decay)
    indices = [index for group in param_groups for index in group["params"]]
    if len(indices) != len(names):
        raise ValueError(f"{where} is of {len(indices)} parameters, expected {len(names)}")
    for group in param_groups:
        if tuple(group["betas"]) != groups.betas or group["eps"] != groups.epsilon:
            raise ValueError(
                f"{where} has betas {tuple(group['betas'])} and eps {group['eps']}, expected {groups.betas} and "
                f"{groups.epsilon}"
            )
        if float(group["lr"]) != learning_rate:
            raise ValueError(f"{where} has several learning rates, expected one")
    moments = state["state"]
    if not moments:
        return LoadedState(0.0, learning_rate, weight_decay, {}, {})
    by_name = {name: moments.get(index) for name, index in zip(names, indices, strict=True)}
    for name, found in by_name.items():
        if found is None or found["exp_avg"].shape != layout.places[name].shape:
            given = "nothing" if found is None else f"shape {list(found['exp_avg'].shape)}"
            raise ValueError(f"{where} has {given} for {name}, expected shape {list(layout.places[name].shape)}")
    steps = {float(found["step"]) for found in by_name.values()}
    if len(steps) > 1:
        raise ValueError(f"{where} has parameters at steps {sorted(steps)}, expected one step for all")
    return LoadedState(
        steps.pop(),
        learning_rate,
        weight_decay,
        {name: found["exp_avg"] for name, found in by_name.items()},
        {name: found["exp_avg_sq"] for name, found in by_name.items()},
    )
