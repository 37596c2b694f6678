"""AdamW for many lanes at once, each with its own learning rate, weight decay, clipping and step count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from models.lanes.network import LaneNetwork
from models.lanes.optimizer_state import SoloGroups, check_state
from models.lanes.rows import RowLayout

_NORM_EPSILON = 1e-6  # of torch.nn.utils.clip_grad_norm_


class LaneAdamW:
    """Every lane is clipped by its own norm and then updated as `build_optimizer`'s AdamW would update a solo network.

    Own code because ``torch.optim.AdamW`` takes one learning rate: a tensor of more than one element is refused
    ("Tensor lr must be 1-element"), and a group for each lane would launch its kernels lane by lane. Here the weights
    of all lanes are moved into one matrix ``[L, columns]``, a row for each lane, and gradients and moments lie beside
    them, so that the arithmetic of a step is some fifteen kernels for any number of layers and lanes. Rows never mix:
    a lane of NaNs stays alone.

    A step is made of tensor operations in place, without waiting for the device, so that a CUDA graph can hold it.

    Args:
        lanes: what to train, already on its device and in its dtype: its weights are moved here, and moving them again
            (``lanes.to(...)``) would part them from the optimiser.
        weight_decay: of every lane, on matrices and convolution kernels.
        clip_norm: largest norm of a lane's gradient.

    Raises:
        ValueError: one weight decay for each lane is not given, or weights differ in dtype or device.
    """

    def __init__(self, lanes: LaneNetwork, weight_decay: Sequence[float], clip_norm: float) -> None:
        if len(weight_decay) != lanes.num_lanes:
            raise ValueError(f"{len(weight_decay)} weight decays given for {lanes.num_lanes} lanes: expected one each")
        self._clip_norm = clip_norm
        self._groups = SoloGroups(lanes.solo)
        self._parameters = [found for found in lanes.trained() if found[2].requires_grad]
        by_name = {name: parameter[0] if lane is None else parameter for name, lane, parameter in self._parameters}
        self._layout = RowLayout((name, by_name[name]) for name in self._groups.names)
        decayed = [self._layout.places[name].start for name in self._groups.decayed]
        self._first_decayed = min(decayed, default=self._layout.num_columns)

        weights = self._parameters[0][2]
        if len({(parameter.dtype, parameter.device) for _, _, parameter in self._parameters}) > 1:
            raise ValueError("the lanes' weights differ in dtype or device: move all of them to one first")
        shape = (lanes.num_lanes, self._layout.num_columns)
        self._weights, self._gradients, self._means, self._squares = (
            torch.zeros(shape, dtype=weights.dtype, device=weights.device) for _ in range(4)
        )
        # Float64, as the Python numbers of a solo optimiser are.
        self._steps, self._rates, self._decays = (
            torch.zeros(lanes.num_lanes, dtype=torch.float64, device=weights.device) for _ in range(3)
        )
        self._decays.copy_(torch.tensor(weight_decay, dtype=torch.float64))
        for name, lane, parameter in self._parameters:
            place = self._layout.view(self._weights, name, lane)
            place.copy_(parameter.detach())
            parameter.data = place
        self._gradient_views = [self._layout.view(self._gradients, name, lane) for name, lane, _ in self._parameters]
        self._lane_gradients = [  # in the network's own order
            [self._layout.of_lane(self._gradients, name, lane) for name in by_name] for lane in range(lanes.num_lanes)
        ]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for _, _, parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rates: torch.Tensor) -> None:
        """Clip and update every lane.

        Args:
            learning_rates: ``[L]``, on the lanes' device; float64 gives what a solo run's Python number gives.

        Raises:
            RuntimeError: a weight has no gradient. (A solo run would leave it as it is; rows cannot.)
        """
        gradients = [parameter.grad for _, _, parameter in self._parameters]
        known = [gradient for gradient in gradients if gradient is not None]
        if len(known) < len(gradients):
            name = next(name for name, _, parameter in self._parameters if parameter.grad is None)
            raise RuntimeError(
                f"{name} has no gradient: call backward() on a loss that all lanes and weights are part of; "
                "networks with unused weights train solo"
            )
        torch._foreach_copy_(self._gradient_views, known)
        self._rates.copy_(learning_rates)
        clip = (self._clip_norm / (self._norms() + _NORM_EPSILON)).clamp(max=1.0)
        self._gradients.mul_(clip.unsqueeze(1))
        adamw_(
            self._weights,
            self._gradients,
            self._means,
            self._squares,
            self._steps,
            self._rates,
            self._decays,
            first_decayed=self._first_decayed,
            betas=self._groups.betas,
            epsilon=self._groups.epsilon,
        )

    def _norms(self) -> torch.Tensor:
        """Gradient norm of every lane, ``[L]``.

        On a CPU in `clip_grad_norm_`'s order of summation, the norm of the norms of the tensors, and so bit by bit the
        same; on an accelerator, where that would be a kernel for every tensor of every lane, over whole rows.
        """
        if self._gradients.device.type != "cpu":
            return row_norms(self._gradients)
        return summed_norms(self._lane_gradients)

    def lane_state(self, lane: int) -> dict[str, Any]:
        """A lane's state in the format of the solo optimiser's ``state_dict()``; waits for the device."""
        step = float(self._steps[lane])
        moments = [self._layout.lane_views(rows, lane) for rows in (self._means, self._squares)]
        return self._groups.state_dict(step, float(self._rates[lane]), float(self._decays[lane]), *moments)

    @torch.no_grad()
    def load_lane(self, lane: int, state: Mapping[str, Any]) -> None:
        """Copy a solo optimiser's ``state_dict()`` into a lane, in place: moments, step, learning rate, weight decay.

        Raises:
            ValueError: the state is not of such an optimiser.
        """
        loaded = check_state(self._groups, self._layout, lane, state)
        for rows in (self._gradients, self._means, self._squares):
            rows[lane].zero_()  # the gaps too, in which a diverged lane may have left NaNs
        for rows, moments in ((self._means, loaded.means), (self._squares, loaded.squares)):
            for name, moment in moments.items():
                self._layout.of_lane(rows, name, lane).copy_(moment)
        self._steps[lane] = loaded.step
        self._rates[lane] = loaded.learning_rate
        self._decays[lane] = loaded.weight_decay


def row_norms(gradients: torch.Tensor) -> torch.Tensor:
    """Norms ``[L]`` of rows ``[L, columns]``."""
    norms: torch.Tensor = torch.linalg.vector_norm(gradients, dim=1)
    return norms


def summed_norms(lanes: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """Norms ``[L]`` of the gradients of lanes, each the norm of the norms of its tensors."""
    norms = torch.stack(torch._foreach_norm([gradient for gradients in lanes for gradient in gradients]))
    return torch.stack([torch.linalg.vector_norm(of_lane) for of_lane in norms.view(len(lanes), -1)])


def adamw_(
    weights: torch.Tensor,
    gradients: torch.Tensor,
    means: torch.Tensor,
    squares: torch.Tensor,
    steps: torch.Tensor,
    rates: torch.Tensor,
    decays: torch.Tensor,
    *,
    first_decayed: int,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """One step of AdamW (Loshchilov & Hutter 1711.05101, algorithm 2) on rows, in place.

    The operations and their order are those of PyTorch's single-tensor AdamW, so that rounding is the same.

    Args:
        weights: ``[L, columns]``, as ``gradients`` and the moments ``means`` and ``squares``.
        gradients: clipped.
        means: moving averages of gradients.
        squares: moving averages of squared gradients.
        steps: steps taken by each lane ``[L]``, float64; one is added.
        rates: learning rates ``[L]``, float64.
        decays: weight decays ``[L]``, float64.
        first_decayed: weights from this column on are decayed.
        betas: decay rates of the moving averages.
        epsilon: added to the root of the second moment.
    """

    def by_row(numbers: torch.Tensor) -> torch.Tensor:
        return numbers.to(weights.dtype).unsqueeze(1)

    beta1, beta2 = betas
    steps.add_(1)
    weights[:, first_decayed:].mul_(by_row(1 - rates * decays))
    means.lerp_(gradients, 1 - beta1)
    squares.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
    step_sizes = rates / (1 - beta1**steps)
    roots = (1 - beta2**steps).sqrt()
    denominators = squares.sqrt().div_(by_row(roots)).add_(epsilon)
    weights.sub_((means * by_row(step_sizes)).div_(denominators))
