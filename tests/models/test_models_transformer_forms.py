"""What the forms of ViT and hybrid cost, that the plain networks have not moved, and how forms train in lanes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from lane_runs import BATCH_SIZE, IMAGE_SHAPE, networks, solo_optimizers, train_lanes, train_solo
from lane_runs import lane_optimizer as optimizer_of
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from models.convolution import build_stages
from models.counter import count_flops, on_meta_device
from models.hybrid import build_hybrid, hybrid_layout
from models.lanes import build_lanes, why_no_lanes, why_not_stacked
from models.registry import FAMILIES, build_network, forward_flops, variants
from models.solver import TOLERANCE
from models.tiers import TIERS
from models.transformer_form import PositionKind, PositionSite, form_names, parse_form
from models.vit import build_vit, reference_flops, vit_layout

TIER_AND_SIZE = [(tier.name, size) for tier in TIERS.values() for size in tier.patch_sizes]
FORMS = [name for name in form_names() if "regularized" not in name]  # dropping out costs nothing that is counted
PLACES = [name for name in FORMS if "cls" not in name]
# Every kind, every site and the class token, and all that costs more than the plain transformer: for tiers and image
# sizes beyond the smallest, where every form is looked at.
COVERING = [
    *("every", "learned2d-shared", "sin2d-every", "relbias-shared", "relquery", "rotary"),
    *("cls", "nopos-cls", "sin1d-cls", "relquery-cls"),
]
SMALLEST = ("nano", 16)


def timms(family: str, tier: str, **options: Any) -> VisionTransformer:
    """The plain network as it is made without this package's encoder, for 32 px, three channels and ten classes."""
    layout: Any = FAMILIES[family].layout(TIERS[tier], "", 32, 3)
    if family == "hybrid":
        backbone: Any = build_stages(layout.stages)
        backbone.num_features = layout.stages.out_channels
        embed = partial(HybridEmbed, backbone=backbone, feature_size=8, feature_ratio=4)
        options |= {"patch_size": 1, "embed_layer": embed}
    else:
        options |= {"patch_size": layout.patch_size}
    network = VisionTransformer(
        img_size=32,
        in_chans=3,
        num_classes=10,
        embed_dim=layout.width,
        depth=layout.depth,
        num_heads=layout.num_heads,
        mlp_ratio=4.0,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        **options,
    )
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    return network


@pytest.mark.parametrize(
    ("family", "tier", "form"),
    [
        ("vit", "nano", ""),
        ("vit", "tiny", ""),
        ("vit", "nano", "nopos"),
        ("hybrid", "nano", ""),
        ("hybrid", "tiny", ""),
    ],
)
def test_plain_networks_are_what_they_were(family: str, tier: str, form: str) -> None:
    """Class, names, settings and every bit of the first weights: published results were trained with these."""
    torch.manual_seed(0)
    expected = timms(family, tier, **({"pos_embed": "none"} if form else {}))
    torch.manual_seed(0)
    variant = f"{tier}-{form}".removesuffix("-")
    built = build_network(family, variant, image_size=32, in_channels=3, num_classes=10)
    assert type(built) is VisionTransformer
    assert str(built) == str(expected)
    assert list(built.state_dict()) == list(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(built.state_dict()[name], tensor), name


# --- FLOPs -----------------------------------------------------------------------------------------------------------


def test_the_covering_forms_have_every_kind_at_every_site() -> None:
    covered = [parse_form(form) for form in COVERING]
    assert {form.position for form in covered} == set(PositionKind)
    assert {form.site for form in covered} == set(PositionSite)
    assert {form.class_token for form in covered if form.position is PositionKind.RELATIVE_QUERY} == {False, True}


@pytest.mark.parametrize(("tier", "image_size"), TIER_AND_SIZE)
def test_arithmetic_of_every_form_equals_the_counter(tier: str, image_size: int) -> None:
    """With one block: blocks are alike, and the arithmetic is linear in their number."""
    for form in FORMS if (tier, image_size) == SMALLEST else COVERING:
        full = vit_layout(TIERS[tier], form, image_size, 3)
        layout = replace(full, depth=1)
        with on_meta_device():
            network = build_vit(layout, 10)
        assert count_flops(network, (2, 3, image_size, image_size)) == layout.forward_flops(10), form
        first = full.feature_flops().first_layer
        assert full.feature_flops().total - first == full.depth * (layout.feature_flops().total - first)


@pytest.mark.parametrize("form", COVERING)
def test_arithmetic_of_forms_of_the_hybrid_equals_the_counter(form: str) -> None:
    """Which has the ViT's encoder, of which every form is counted above."""
    layout = hybrid_layout(TIERS["nano"], form, 16, 3)
    with on_meta_device():
        network = build_hybrid(layout, 10)
    assert count_flops(network, (2, 3, 16, 16)) == layout.forward_flops(10)


MORE_CONVOLUTION = [
    name
    for name in variants("hybrid")
    if ("half" in name or "quarter" in name) and ("gn" not in name or name in ("nano-half-gn", "tiny-quarter-gn"))
]


@pytest.mark.parametrize("variant", MORE_CONVOLUTION)
def test_arithmetic_of_hybrids_with_more_convolution_equals_the_counter(variant: str) -> None:
    """With one transformer block behind all of the convolution; norms are not counted, of whatever kind."""
    tier, _, form = variant.partition("-")
    for image_size in TIERS[tier].patch_sizes:
        layout = replace(hybrid_layout(TIERS[tier], form, image_size, 3), depth=1)
        with on_meta_device():
            network = build_hybrid(layout, 10)
        assert count_flops(network, (2, 3, image_size, image_size)) == layout.forward_flops(10)


@pytest.mark.parametrize(("tier", "image_size"), TIER_AND_SIZE)
@pytest.mark.parametrize("family", ["vit", "hybrid"])
def test_every_form_is_within_the_solvers_tolerance(family: str, tier: str, image_size: int) -> None:
    layout: Any = FAMILIES[family].layout
    for in_channels in (1, 3):
        target = reference_flops(TIERS[tier], image_size, in_channels)
        plain = layout(TIERS[tier], "", image_size, in_channels)
        for form in FORMS if (tier, image_size) == SMALLEST else COVERING:
            found = layout(TIERS[tier], form, image_size, in_channels)
            assert abs(found.feature_flops().total / target - 1) <= TOLERANCE, form
            kind = parse_form(form)
            if kind.class_token or kind.position is PositionKind.RELATIVE_QUERY:
                assert plain.mlp_width / 2 < found.mlp_width <= plain.mlp_width, form
            else:
                assert found == replace(plain, form=kind)
            assert replace(found, form=plain.form, mlp_width=plain.mlp_width) == plain, "only the MLPs differ"


def test_regularisation_costs_nothing() -> None:
    images = {"image_size": 16, "in_channels": 1, "num_classes": 2}
    for form in ("", "cls", "relquery"):
        name = f"nano-{form}".removesuffix("-")
        assert forward_flops("vit", name, **images) == forward_flops("vit", f"{name}-regularized", **images)


# --- how much convolution before attention ---------------------------------------------------------------------------


@pytest.mark.parametrize(("tier", "image_size"), TIER_AND_SIZE)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_forms_of_the_hybrid_are_a_ladder_from_the_vit_to_the_resnet(
    tier: str, image_size: int, in_channels: int
) -> None:
    shares, depths, widths = [], [], []
    for form in ("", "half", "quarter"):
        if tier == "nano" and form == "quarter":
            continue
        layout = hybrid_layout(TIERS[tier], form, image_size, in_channels)
        flops = layout.feature_flops()
        assert abs(flops.total / reference_flops(TIERS[tier], image_size, in_channels) - 1) <= TOLERANCE
        shares.append(layout.stages.flops().total / flops.total)
        depths.append(layout.depth)
        widths.append(layout.stages.widths)
        assert (
            hybrid_layout(TIERS[tier], f"{form}-gn".removeprefix("-"), image_size, in_channels).stages.widths
            == widths[-1]
        )
    assert shares == sorted(shares)
    assert shares[0] > 0.15
    assert all(later - earlier > 0.15 for earlier, later in pairwise(shares))
    assert TIERS[tier].depth > depths[0]
    assert depths == sorted(set(depths), reverse=True)
    for width in widths[1:]:
        assert all(0.5 < here / plain < 2 for here, plain in zip(width, widths[0], strict=True))


def test_a_quarter_of_three_blocks_is_refused() -> None:
    for form in ("quarter", "quarter-gn"):
        with pytest.raises(ValueError, match=f"no variant 'nano-{form}'.*is none: write 'half'"):
            forward_flops("hybrid", f"nano-{form}", image_size=16, in_channels=1, num_classes=2)
        assert f"nano-{form}" not in variants("hybrid")
        assert f"tiny-{form}" in variants("hybrid")


def test_convolution_and_transformer_forms_of_the_hybrid_stand_alone() -> None:
    with pytest.raises(ValueError, match="the hybrid also has gn, half, half-gn, quarter, quarter-gn, which stand"):
        forward_flops("hybrid", "nano-half-rotary", image_size=16, in_channels=1, num_classes=2)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [*PLACES, "cls", "regularized"])
@pytest.mark.parametrize("family", ["vit", "hybrid"])
def test_every_parameter_of_a_form_is_trained(family: str, form: str) -> None:
    torch.manual_seed(0)
    network = build_network(family, f"nano-{form}", image_size=16, in_channels=1, num_classes=5)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)  # no decay: what moves has a gradient
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    images, labels = torch.randn(8, 1, 16, 16), torch.arange(8) % 5
    for _ in range(4):  # the classifier and the last norm of a residual block start at zero
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())


STACKED = ["learned2d", "learned2d-every", "every", "sin1d", "sin2d-every", "rotary", "cls", "learned2d-every-cls"]
BRANCHED = {
    "shared": "layer 'blocks.0' (AddingBlock) uses parameters of the network's position embedding",
    "learned2d-shared": "which other layers use too",
    "relbias": "keeps buffers",
    "relbias-shared": "",
    "relquery": "layer 'blocks.0.attn.position' (RelativeQuery) owns parameters (offset_keys)",
    "relquery-shared": "",
}


@pytest.mark.parametrize("form", STACKED)
def test_lanes_of_added_and_rotary_positions_are_stacked(form: str) -> None:
    nets = networks("vit", f"nano-{form}", torch.float64)
    assert why_not_stacked(nets[0], IMAGE_SHAPE) is None
    lanes = build_lanes(nets)
    assert lanes.kind == "stacked"
    losses = train_lanes(lanes, optimizer_of(lanes), range(4))
    for lane, (net, optimizer) in enumerate(zip(nets, solo_optimizers(nets), strict=True)):
        expected = train_solo(net, optimizer, lane, range(4))[:, 0]
        torch.testing.assert_close(losses[:, lane], expected, rtol=1e-12, atol=0)
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(lanes.lane_state(lane)[name], tensor, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("form", "said"), BRANCHED.items())
def test_lanes_of_shared_and_relative_positions_are_branches_and_say_why(form: str, said: str) -> None:
    nets = networks("vit", f"nano-{form}")
    reason = why_not_stacked(nets[0])
    assert reason is not None
    assert said in reason
    lanes = build_lanes(nets)
    assert lanes.kind == "branches"
    losses = train_lanes(lanes, optimizer_of(lanes), range(4))
    for lane, (net, optimizer) in enumerate(zip(nets, solo_optimizers(nets), strict=True)):
        assert torch.equal(losses[:, lane], train_solo(net, optimizer, lane, range(4))[:, 0])


def test_regularised_forms_train_alone_and_say_why() -> None:
    for form in ("regularized", "relbias-regularized"):
        reason = why_no_lanes(networks("vit", f"nano-{form}")[0])
        assert "draws random numbers in training (p=0.1)" in str(reason)


def moved_to_fake(network: nn.Module, device: str) -> nn.Module:
    """Exchange weights and buffers for fake ones of the device, inside a `FakeTensorMode`."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(torch.empty(parameter.shape, device=device)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))
    return network


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("form", [*PLACES, "cls", "rotary-cls", "relquery-cls", "relbias-cls"])
def test_a_step_neither_waits_for_a_gpu_nor_leaves_it(form: str, device: str) -> None:
    """On fake tensors, where reading a value or mixing devices raises; autograd runs on the CPU's only."""
    network = networks("vit", f"nano-{form}")[0]
    with FakeTensorMode():
        logits = moved_to_fake(network, device)(torch.empty(BATCH_SIZE, *IMAGE_SHAPE, device=device))
        assert logits.shape == (BATCH_SIZE, 4)
        assert logits.device.type == device
        if device == "cpu":
            logits.sum().backward()
            assert all(parameter.grad is not None for parameter in network.parameters())
