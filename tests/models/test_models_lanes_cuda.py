"""Lanes in a CUDA graph: for machines that have a GPU."""

from __future__ import annotations

import pytest
import torch
from lane_runs import (
    CLIP_NORM,
    NUM_LANES,
    NUM_STEPS,
    WEIGHT_DECAYS,
    batches,
    distance,
    lane_losses,
    networks,
    rate,
    solo_optimizers,
)
from torch import nn
from torch.nn import functional as F

from models.lanes import LaneAdamW, build_lanes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GRAPH_STEPS = 10


@pytest.mark.parametrize("family", ["vit", "mixer", "mlp", "lstm", "resnet", "hybrid"])
def test_a_captured_step_trains_every_lane_as_a_solo_run(family: str) -> None:
    """The whole step of all lanes in one graph, replayed with new images and rates, against eager solo runs."""
    nets = [net.cuda() for net in networks(family)]
    lanes = build_lanes(nets)
    optimizer = LaneAdamW(lanes, WEIGHT_DECAYS, CLIP_NORM)
    first = [(lanes.lane_state(lane), optimizer.lane_state(lane)) for lane in range(NUM_LANES)]
    all_images, all_labels = (tensor.cuda() for tensor in batches(NUM_STEPS, torch.float32))
    images, labels = all_images[0].clone(), all_labels[0].clone()
    rates = torch.zeros(NUM_LANES, dtype=torch.float64, device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        lane_losses(lanes, images, labels).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step(rates)

    warm_up = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(warm_up)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    for lane, (weights, state) in enumerate(first):
        lanes.load_lane(lane, weights)
        optimizer.load_lane(lane, state)
    for at in range(GRAPH_STEPS):
        images.copy_(all_images[at])
        labels.copy_(all_labels[at])
        rates.copy_(torch.tensor([rate(lane, at) for lane in range(NUM_LANES)], dtype=torch.float64))
        graph.replay()

    for lane, (net, solo) in enumerate(zip(nets, solo_optimizers(nets), strict=True)):
        for at in range(GRAPH_STEPS):
            for group in solo.param_groups:
                group["lr"] = rate(lane, at)
            solo.zero_grad()
            F.cross_entropy(net(all_images[at, lane]), all_labels[at, lane]).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(list(net.parameters()), CLIP_NORM)
            solo.step()
        assert distance(lanes.lane_state(lane), net.state_dict()) < 1e-4
        assert distance(lanes.lane_state(lane), first[lane][0]) > 1e-3, "nothing was learnt"
