"""LaneAdamW: a row for each lane, a state in the solo format, and nothing that waits for a device."""

from __future__ import annotations

import copy

import pytest
import torch
from lane_runs import (
    BATCH_SIZE,
    IMAGE_SHAPE,
    NUM_LANES,
    STACKED,
    WEIGHT_DECAYS,
    lane_losses,
    lane_optimizer,
    networks,
    same_bits,
    solo_optimizers,
    train_lanes,
    train_solo,
)
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from models.lanes import LaneAdamW, LaneNetwork, build_lanes
from models.lanes.optimizer import row_norms, summed_norms
from models.lanes.rows import RowLayout


@pytest.mark.parametrize(("family", "kind"), [("vit", "stacked"), ("resnet", "branches")])
def test_a_state_goes_in_and_out_unchanged(family: str, kind: str) -> None:
    """Before the first step and in mid-training, with the decay of a lane that has none (one group instead of two)."""
    nets = networks(family)
    optimizers = solo_optimizers(nets)
    lanes = build_lanes(nets, kind)  # type: ignore[arg-type]
    together = lane_optimizer(lanes)
    train_lanes(lanes, together, range(1))  # something to overwrite
    for num_steps in (0, 3):
        for lane, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            if num_steps:
                train_solo(net, optimizer, lane, range(num_steps))
            together.load_lane(lane, optimizer.state_dict())
        for lane, optimizer in enumerate(optimizers):
            state = together.lane_state(lane)
            assert same_bits(state, optimizer.state_dict())
            assert len(state["param_groups"]) == (2 if WEIGHT_DECAYS[lane] else 1)


def test_a_state_given_out_is_a_copy() -> None:
    lanes = build_lanes(networks("mlp"))
    optimizer = lane_optimizer(lanes)
    train_lanes(lanes, optimizer, range(2))
    state = optimizer.lane_state(0)
    kept = copy.deepcopy(state)
    train_lanes(lanes, optimizer, range(2, 3))
    assert same_bits(state, kept)
    assert not same_bits(optimizer.lane_state(0), kept)


def test_lanes_may_be_at_different_steps() -> None:
    """A lane that joins later has its own bias correction."""
    nets = networks("mlp")
    optimizers = solo_optimizers(nets)
    train_solo(nets[0], optimizers[0], 0, range(7))
    lanes = build_lanes(nets, "branches")
    together = lane_optimizer(lanes)
    together.load_lane(0, optimizers[0].state_dict())
    train_lanes(lanes, together, range(7, 9))
    for lane, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
        train_solo(net, optimizer, lane, range(7, 9))
        assert same_bits(lanes.lane_state(lane), net.state_dict())
        assert same_bits(together.lane_state(lane), optimizer.state_dict())


def test_weights_stay_where_they_are() -> None:
    lanes = build_lanes(networks("vit"))
    optimizer = lane_optimizer(lanes)
    places = [parameter.data_ptr() for parameter in lanes.parameters()]
    state = optimizer.lane_state(0)
    train_lanes(lanes, optimizer, range(2))
    optimizer.load_lane(0, state)
    assert [parameter.data_ptr() for parameter in lanes.parameters()] == places
    assert len({parameter.untyped_storage().data_ptr() for parameter in lanes.parameters()}) == 1


def test_unsuited_states_are_refused() -> None:
    lanes = build_lanes(networks("vit"))
    optimizer = lane_optimizer(lanes)
    train_lanes(lanes, optimizer, range(1))
    state = optimizer.lane_state(0)

    def changed(**options: object) -> dict[str, object]:
        groups = [{**group, **options} for group in state["param_groups"]]
        return {"state": state["state"], "param_groups": groups}

    with pytest.raises(ValueError, match=r"lane 2: the optimiser's state has betas \(0.5, 0.9\)"):
        optimizer.load_lane(2, changed(betas=(0.5, 0.9)))
    with pytest.raises(ValueError, match=r"eps 0\.1"):
        optimizer.load_lane(2, changed(eps=0.1))
    with pytest.raises(ValueError, match=r"is of \d+ parameters, expected \d+"):
        optimizer.load_lane(2, {"state": {}, "param_groups": state["param_groups"][:1]})
    broken = copy.deepcopy(state)
    broken["state"][0]["step"] += 1
    with pytest.raises(ValueError, match=r"parameters at steps \[1.0, 2.0\]"):
        optimizer.load_lane(2, broken)
    del broken["state"][0]
    with pytest.raises(ValueError, match="has nothing for"):
        optimizer.load_lane(2, broken)
    broken = copy.deepcopy(state)
    broken["state"][0]["exp_avg"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"has shape \[3\] for"):
        optimizer.load_lane(2, broken)
    broken = copy.deepcopy(state)
    broken["param_groups"][0]["lr"] = 7.0
    with pytest.raises(ValueError, match="several learning rates"):
        optimizer.load_lane(2, broken)


def test_what_cannot_be_trained_is_refused() -> None:
    lanes = build_lanes(networks("mlp"))
    with pytest.raises(ValueError, match="2 weight decays given for 3 lanes"):
        LaneAdamW(lanes, [0.1, 0.1], 1.0)
    optimizer = lane_optimizer(lanes)
    with pytest.raises(RuntimeError, match=r"layer1\.linear\.weight has no gradient"):
        optimizer.step(torch.ones(NUM_LANES))
    lanes.stacked.head.double()  # type: ignore[operator, union-attr]
    with pytest.raises(ValueError, match="differ in dtype or device"):
        lane_optimizer(lanes)


def test_rows_hold_every_weight_once_and_aligned() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(7, 3)).to(memory_format=torch.channels_last)
    layout = RowLayout(network.named_parameters())
    rows = torch.zeros(2, layout.num_columns)
    for name, parameter in network.named_parameters():
        view = layout.of_lane(rows, name, 1)
        assert view.stride() == parameter.stride()
        assert (view.data_ptr() - rows.data_ptr()) % 256 == 0
        assert layout.of_all(rows, name)[1].data_ptr() == view.data_ptr()
        view += 1
    assert rows[1].max() == 1
    assert rows[1].sum() == sum(parameter.numel() for parameter in network.parameters())
    assert not rows[0].any()


def test_both_ways_to_the_norm_agree() -> None:
    """Rows at once on an accelerator, tensor by tensor in the solo order on a CPU."""
    network = networks("vit")[0]
    layout = RowLayout(network.named_parameters())
    rows = torch.zeros(3, layout.num_columns)
    generator = torch.Generator().manual_seed(0)
    for lane in range(3):
        for name in layout.places:
            layout.of_lane(rows, name, lane).normal_(generator=generator).mul_(lane + 1)
    by_tensor = summed_norms([list(layout.lane_views(rows, lane).values()) for lane in range(3)])
    torch.testing.assert_close(row_norms(rows), by_tensor, rtol=1e-5, atol=0)
    for lane in range(3):
        solo = nn.utils.get_total_norm(list(layout.lane_views(rows, lane).values()))
        assert torch.equal(by_tensor[lane], solo)


# --- on a device that is not there -----------------------------------------------------------------------------------


def moved_to_fake(lanes: LaneNetwork, device: str) -> LaneNetwork:
    """Exchange weights and buffers for fake ones of the device, inside a `FakeTensorMode`."""
    for module in lanes.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            fake = torch.empty_strided(parameter.shape, parameter.stride(), device=device)
            module.register_parameter(name, nn.Parameter(fake))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))
    return lanes


FAKE_FAMILIES = [
    *((family, variant, "stacked") for family, variant in STACKED),
    ("vit", "nano", "branches"),
    ("resnet", "nano", "branches"),
    ("hybrid", "nano-gn", "branches"),
]


@pytest.mark.parametrize(("family", "variant", "kind"), FAKE_FAMILIES)
def test_forward_and_step_neither_wait_for_a_gpu_nor_leave_it(family: str, variant: str, kind: str) -> None:
    lanes = build_lanes(networks(family, variant), kind)  # type: ignore[arg-type]
    with FakeTensorMode():
        optimizer = lane_optimizer(moved_to_fake(lanes, "cuda"))
        logits = lanes(torch.empty(NUM_LANES, BATCH_SIZE, *IMAGE_SHAPE, device="cuda"))
        assert logits.shape == (NUM_LANES, BATCH_SIZE, 4)
        assert logits.device.type == "cuda"
        optimizer.zero_grad()
        for parameter in lanes.parameters():  # autograd does not run for a GPU that is not there
            parameter.grad = torch.empty_like(parameter)
        optimizer.step(torch.empty(NUM_LANES, dtype=torch.float64, device="cuda"))
        with pytest.raises(DataDependentOutputException):
            optimizer.lane_state(0)  # the test would see a step that waits


@pytest.mark.parametrize(("family", "variant", "kind"), FAKE_FAMILIES)
def test_backward_reads_no_value(family: str, variant: str, kind: str) -> None:
    lanes = build_lanes(networks(family, variant), kind)  # type: ignore[arg-type]
    with FakeTensorMode():
        optimizer = lane_optimizer(moved_to_fake(lanes, "cpu"))
        images = torch.empty(NUM_LANES, BATCH_SIZE, *IMAGE_SHAPE)
        lane_losses(lanes, images, torch.zeros(NUM_LANES, BATCH_SIZE, dtype=torch.long)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step(torch.empty(NUM_LANES, dtype=torch.float64))
