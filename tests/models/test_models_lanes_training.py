"""Lane == solo: 50 steps of AdamW with clipping, in lanes and alone."""

from __future__ import annotations

import pytest
import torch
from lane_runs import (
    BRANCHES,
    CLIP_NORM,
    IMAGE_SHAPE,
    NUM_LANES,
    NUM_STEPS,
    STACKED,
    WEIGHT_DECAYS,
    batches,
    distance,
    lane_losses,
    lane_optimizer,
    networks,
    same_bits,
    solo_optimizers,
    solo_runs,
    train_lanes,
    train_solo,
)
from torch import nn
from torch.nn import functional as F

from models import build_network, build_optimizer
from models.lanes import LaneAdamW, LaneNetwork, build_lanes
from models.lanes.optimizer import row_norms

# What fp32 kernels on a CPU allow, seen over 50 steps. Branches run the solo kernels: every bit is the same. Stacked
# linear layers are the same to the bit as well, but the weight gradients of layer norms and patches are summed in
# another order, and the recurrence is not the library's.
#
#   family, variant             form      weights after 50 steps
#   any                         branches  every bit
#   vit, vit nopos              stacked   1e-6
#   mixer, mlp                  stacked   3e-6
#   lstm, lstm raster           stacked   4e-7
STACKED_TOLERANCE = 1e-5


@pytest.mark.parametrize(("family", "variant"), STACKED)
def test_stacked_lanes_train_as_solo_runs(family: str, variant: str) -> None:
    solo = solo_runs(family, variant)
    lanes = build_lanes(networks(family, variant))
    losses = train_lanes(lanes, lane_optimizer(lanes), range(NUM_STEPS))
    assert lanes.kind == "stacked"
    assert (solo.losses.std(dim=0) > 1e-3).all(), "nothing was learnt: the comparison would hold for any two networks"
    assert ((losses - solo.losses).norm(dim=0) <= STACKED_TOLERANCE * solo.losses.norm(dim=0)).all()
    for lane in range(NUM_LANES):
        assert distance(lanes.lane_state(lane), solo.weights[lane]) < STACKED_TOLERANCE


@pytest.mark.parametrize(("family", "variant"), STACKED)
def test_stacked_lanes_are_the_same_function(family: str, variant: str) -> None:
    """In float64, rounding apart: a wrong formula that fp32 would hide shows here."""
    nets = networks(family, variant, torch.float64)
    lanes = build_lanes(nets, "stacked")
    losses = train_lanes(lanes, lane_optimizer(lanes), range(12))
    for lane, (net, optimizer) in enumerate(zip(nets, solo_optimizers(nets), strict=True)):
        expected = train_solo(net, optimizer, lane, range(12))[:, 0]
        assert expected.std() > 1e-4, "nothing was learnt: the comparison would hold for any two networks"
        torch.testing.assert_close(losses[:, lane], expected, rtol=1e-12, atol=0)
        assert distance(lanes.lane_state(lane), net.state_dict()) < 1e-12


@pytest.mark.parametrize(("family", "variant"), [*BRANCHES, ("vit", "nano"), ("lstm", "nano")])
def test_branches_train_as_solo_runs_bit_by_bit(family: str, variant: str) -> None:
    solo = solo_runs(family, variant)
    lanes = build_lanes(networks(family, variant), "branches" if (family, variant) in STACKED else None)
    assert lanes.kind == "branches"
    optimizer = lane_optimizer(lanes)
    losses = train_lanes(lanes, optimizer, range(NUM_STEPS))
    assert torch.equal(losses, solo.losses)
    for lane in range(NUM_LANES):
        assert same_bits(lanes.lane_state(lane), solo.weights[lane])
        assert same_bits(optimizer.lane_state(lane), solo.optimizers[lane])


@pytest.mark.parametrize(("family", "variant"), [*BRANCHES, *STACKED])
def test_the_comparison_is_with_clipping(family: str, variant: str) -> None:
    assert (solo_runs(family, variant).norms > CLIP_NORM).any(dim=0).all()


def test_what_the_comparison_of_mixers_leaves_out_has_no_gradient() -> None:
    mixer = networks("mixer", dtype=torch.float64)[0]
    nn.init.normal_(mixer.head.weight, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, arg-type]
    images, labels = batches(NUM_STEPS, torch.float64)
    F.cross_entropy(mixer(images[0, 0]), labels[0, 0]).backward()  # type: ignore[no-untyped-call]
    grads = {name: parameter.grad.norm() for name, parameter in mixer.named_parameters() if parameter.grad is not None}
    left_out = [norm for name, norm in grads.items() if name.endswith("mlp_tokens.fc2.bias")]
    assert len(left_out) == 4
    assert max(left_out) < 1e-13 * max(grads.values())


@pytest.mark.parametrize(("family", "kind"), [("vit", "stacked"), ("lstm", "stacked"), ("resnet", "branches")])
@pytest.mark.parametrize("trouble", ["rate", "weights", "images"])
def test_a_diverging_lane_leaves_the_others_as_they_were(family: str, kind: str, trouble: str) -> None:
    def run(trouble: str | None) -> LaneNetwork:
        lanes = build_lanes(networks(family), kind)  # type: ignore[arg-type]
        optimizer = lane_optimizer(lanes)
        images, labels = batches(NUM_STEPS, torch.float32)
        if trouble == "weights":
            lanes.load_lane(1, {name: tensor / 0 for name, tensor in lanes.lane_state(1).items()})
        for step in range(5):
            seen, rates = images[step].clone(), torch.tensor([1e-3, 1e-3, 1e-3], dtype=torch.float64)
            if trouble == "images":
                seen[1, 0] = torch.inf
            if trouble == "rate" and step > 0:
                rates[1] = torch.inf if step == 1 else torch.nan
            optimizer.zero_grad()
            lane_losses(lanes, seen, labels[step]).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step(rates)
        return lanes

    calm, troubled = run(None), run(trouble)
    assert any(value.isnan().any() for value in troubled.lane_state(1).values())
    for lane in (0, 2):
        assert same_bits(troubled.lane_state(lane), calm.lane_state(lane))


@pytest.mark.parametrize(("family", "kind"), [("mlp", "stacked"), ("lstm", "stacked"), ("resnet", "branches")])
def test_a_diverged_lane_can_be_used_again(family: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After NaNs in every number of a lane, a loaded state trains as if nothing had been.

    With the norms that an accelerator takes, over whole rows with the gaps between weights.
    """
    monkeypatch.setattr(LaneAdamW, "_norms", lambda optimizer: row_norms(optimizer._gradients))
    fresh, optimizer_state = networks(family), [opt.state_dict() for opt in solo_optimizers(networks(family))]
    runs = []
    for diverged in (False, True):
        lanes = build_lanes(fresh, kind)  # type: ignore[arg-type]
        optimizer = lane_optimizer(lanes)
        if diverged:
            with torch.no_grad():
                for parameter in lanes.parameters():
                    parameter.fill_(torch.nan)
            train_lanes(lanes, optimizer, range(1))
            for lane, network in enumerate(fresh):
                lanes.load_lane(lane, network.state_dict())
                optimizer.load_lane(lane, optimizer_state[lane])
        runs.append(train_lanes(lanes, optimizer, range(3)))
    assert torch.equal(*runs)


@pytest.mark.parametrize(("family", "variant"), [("vit", "nano"), ("lstm", "nano"), ("hybrid", "nano")])
def test_a_run_may_change_between_solo_and_lane(family: str, variant: str) -> None:
    """20 steps solo, 15 in a lane, 15 solo are 50 steps solo."""
    expected, nets = solo_runs(family, variant), networks(family, variant)
    optimizers = solo_optimizers(nets)
    for lane, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
        train_solo(net, optimizer, lane, range(20))
    lanes = build_lanes(networks(family, variant))
    together = LaneAdamW(lanes, [1.0] * NUM_LANES, CLIP_NORM)  # the loaded states bring their own decay
    for lane, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
        lanes.load_lane(lane, net.state_dict())
        together.load_lane(lane, optimizer.state_dict())
        assert same_bits(lanes.lane_state(lane), net.state_dict())
        assert same_bits(together.lane_state(lane), optimizer.state_dict())
    train_lanes(lanes, together, range(20, 35))
    for lane, net in enumerate(networks(family, variant)):
        net.load_state_dict(lanes.lane_state(lane))
        optimizer = build_optimizer(net, 1.0, WEIGHT_DECAYS[lane])
        optimizer.load_state_dict(together.lane_state(lane))
        train_solo(net, optimizer, lane, range(35, NUM_STEPS))
        if lanes.kind == "branches":
            assert same_bits(net.state_dict(), expected.weights[lane])
        assert distance(net.state_dict(), expected.weights[lane]) < STACKED_TOLERANCE


@pytest.mark.parametrize(("family", "kind"), [("vit", "stacked"), ("resnet", "branches")])
def test_lanes_of_the_tiny_tier_train_as_solo_runs(family: str, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(3, 2, 4, 3, 32, 32, generator=generator), torch.randint(10, (3, 2, 4))
    nets = [build_network(family, "tiny", image_size=32, in_channels=3, num_classes=10) for _ in range(2)]
    lanes = build_lanes(nets)
    together = LaneAdamW(lanes, [0.05, 0.1], 1.0)
    for step in range(3):
        together.zero_grad()
        lane_losses(lanes, images[step], labels[step]).sum().backward()  # type: ignore[no-untyped-call]
        together.step(torch.tensor([1e-3, 2e-3], dtype=torch.float64))
    for lane, net in enumerate(nets):
        optimizer = build_optimizer(net, [1e-3, 2e-3][lane], [0.05, 0.1][lane])
        for step in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(images[step, lane]), labels[step, lane]).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(list(net.parameters()), 1.0)
            optimizer.step()
        assert lanes.kind == kind
        assert distance(lanes.lane_state(lane), net.state_dict()) < (STACKED_TOLERANCE if kind == "stacked" else 1e-30)


@pytest.mark.parametrize(("family", "variant"), [*STACKED, ("hybrid", "nano")])
def test_bfloat16_lanes_keep_weights_in_fp32_and_agree(family: str, variant: str) -> None:
    nets = networks(family, variant)
    lanes = build_lanes(nets)
    with torch.no_grad():
        for net, lane in zip(nets, range(NUM_LANES), strict=True):
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(lane)), alpha=0.02)
            lanes.load_lane(lane, net.state_dict())
    images, _ = batches(NUM_STEPS, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        together = lanes(images[0])
        alone = torch.stack([net(batch) for net, batch in zip(nets, images[0], strict=True)])
    exact = torch.stack([net.double()(batch.double()) for net, batch in zip(nets, images[0], strict=True)])
    assert together.dtype == torch.bfloat16
    error_together, error_alone = (together - exact).norm(), (alone - exact).norm()
    assert error_alone > 1e-4 * exact.norm(), "this was not bfloat16"
    assert error_together < 2 * error_alone
    assert {parameter.dtype for parameter in lanes.parameters()} == {torch.float32}


def test_evaluation_uses_the_buffers_of_each_lane() -> None:
    nets = networks("resnet")
    lanes = build_lanes(nets)
    train_lanes(lanes, lane_optimizer(lanes), range(3))
    for net, optimizer, lane in zip(nets, solo_optimizers(nets), range(NUM_LANES), strict=True):
        train_solo(net, optimizer, lane, range(3))
    images = torch.randn(NUM_LANES, 5, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(1))
    lanes.eval()
    expected = torch.stack([net.eval()(batch) for net, batch in zip(nets, images, strict=True)])
    assert torch.equal(lanes(images), expected)
