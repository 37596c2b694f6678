"""The same trainings solo and in lanes: three runs that differ in weights, images, learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models import build_network, build_optimizer
from models.lanes import LaneAdamW, LaneNetwork

IMAGE_SHAPE, NUM_CLASSES, BATCH_SIZE, NUM_STEPS = (3, 16, 16), 4, 8, 50
LEARNING_RATES, WEIGHT_DECAYS = (3e-3, 1e-3, 3e-4), (0.05, 0.3, 0.0)
NUM_LANES = len(LEARNING_RATES)
CLIP_NORM = 0.25  # studies clip at 1; here at a norm that gradients of every family have on both sides

STACKED = [("vit", "nano"), ("vit", "nano-nopos"), ("mixer", "nano"), ("mlp", "nano"), ("lstm", "nano"),
           ("lstm", "nano-raster"), ("lstm", "nano-snake")]  # fmt: skip
BRANCHES = [("resnet", "nano"), ("resnet", "nano-circular"), ("resnet", "nano-gn"), ("hybrid", "nano"),
            ("hybrid", "nano-gn")]  # fmt: skip


def networks(family: str, variant: str = "nano", dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    """Three networks with different weights, in training mode."""
    built = []
    for seed in range(NUM_LANES):
        torch.manual_seed(seed)
        built.append(
            build_network(
                family, variant, image_size=IMAGE_SHAPE[1], in_channels=IMAGE_SHAPE[0], num_classes=NUM_CLASSES
            )
        )
    return [network.to(dtype) for network in built]


@cache
def batches(num_steps: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Images ``[steps, L, B, C, H, W]`` and labels ``[steps, L, B]``; every lane has its own."""
    generator = torch.Generator().manual_seed(99)
    images = torch.randn(num_steps, NUM_LANES, BATCH_SIZE, *IMAGE_SHAPE, generator=generator, dtype=torch.float64)
    return images.to(dtype), torch.randint(NUM_CLASSES, (num_steps, NUM_LANES, BATCH_SIZE), generator=generator)


def rate(lane: int, step: int) -> float:
    """A warm-up of ten steps."""
    return LEARNING_RATES[lane] * min(1.0, (step + 1) / 10)


def solo_optimizers(nets: Sequence[nn.Module]) -> list[torch.optim.AdamW]:
    return [build_optimizer(net, LEARNING_RATES[lane], WEIGHT_DECAYS[lane]) for lane, net in enumerate(nets)]


def train_solo(net: nn.Module, optimizer: torch.optim.AdamW, lane: int, steps: range) -> torch.Tensor:
    """Losses and gradient norms ``[steps, 2]`` of a solo run, as `studies` trains."""
    dtype = next(net.parameters()).dtype
    images, labels = batches(NUM_STEPS, dtype)
    trace = []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = rate(lane, step)
        loss = F.cross_entropy(net(images[step, lane]), labels[step, lane])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(net.parameters()), CLIP_NORM)
        optimizer.step()
        trace.append(torch.stack([loss.detach(), norm]))
    return torch.stack(trace)


def lane_losses(lanes: LaneNetwork, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss ``[L]`` of every lane, reduced lane by lane as a solo run reduces it."""
    return torch.stack([F.cross_entropy(*pair) for pair in zip(lanes(images), labels, strict=True)])


def lane_optimizer(lanes: LaneNetwork) -> LaneAdamW:
    return LaneAdamW(lanes, WEIGHT_DECAYS, CLIP_NORM)


def train_lanes(lanes: LaneNetwork, optimizer: LaneAdamW, steps: range) -> torch.Tensor:
    """Losses ``[steps, L]`` of the same runs in lanes."""
    dtype = next(lanes.parameters()).dtype
    images, labels = batches(NUM_STEPS, dtype)
    trace = []
    for step in steps:
        losses = lane_losses(lanes, images[step], labels[step])
        optimizer.zero_grad()
        losses.sum().backward()
        rates = torch.tensor([rate(lane, step) for lane in range(NUM_LANES)], dtype=torch.float64)
        optimizer.step(rates)
        trace.append(losses.detach())
    return torch.stack(trace)


@dataclass(frozen=True)
class SoloRuns:
    """What three solo runs gave: losses and norms ``[steps, L]``, weights and optimiser state of each."""

    losses: torch.Tensor
    norms: torch.Tensor
    weights: list[dict[str, torch.Tensor]]
    optimizers: list[dict[str, Any]]


@cache
def solo_runs(family: str, variant: str) -> SoloRuns:
    """All steps of the three solo runs."""
    nets = networks(family, variant)
    optimizers = solo_optimizers(nets)
    traces = torch.stack(
        [
            train_solo(net, optimizer, lane, range(NUM_STEPS))
            for lane, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True))
        ],
        dim=1,
    )
    return SoloRuns(
        traces[..., 0], traces[..., 1], [net.state_dict() for net in nets], [opt.state_dict() for opt in optimizers]
    )


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    """All weights and buffers of a state as one vector, float64, but those that no loss depends on.

    A constant added to all channels of a token is taken out by every later layer norm, so the biases of a Mixer's
    token MLPs have no gradient but rounding, which AdamW divides by its own size: their drift is noise in any two runs.
    """
    kept = [value for name, value in state.items() if not name.endswith("mlp_tokens.fc2.bias")]
    return torch.cat([value.double().flatten() for value in kept])


def distance(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Norm of the difference of two states over the norm of the second."""
    assert list(state) == list(expected)
    return float((flat(state) - flat(expected)).norm() / flat(expected).norm())


def same_bits(state: Any, expected: Any) -> bool:
    """Whether two (nested) states are equal in every bit, NaNs included, in shapes, dtypes and memory formats."""
    return all(_same(*pair) for pair in zip(_leaves(state), _leaves(expected), strict=True))


def _leaves(state: Any) -> Iterator[Any]:
    if isinstance(state, dict):
        for key, value in state.items():
            yield key
            yield from _leaves(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _leaves(value)
    else:
        yield state


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor):
        return type(one) is type(other) and one == other
    alike = one.shape == other.shape and one.dtype == other.dtype and one.stride() == other.stride()
    return alike and one.device == other.device and torch.equal(one.nan_to_num(7e7), other.nan_to_num(7e7))
