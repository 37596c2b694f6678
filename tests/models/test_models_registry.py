"""Building any family by name, and saying clearly what cannot be built."""

import importlib.metadata
import math
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import external, registry
from models.convolution import ConvStages
from models.families import Family
from models.hybrid import HybridLayout, build_hybrid
from models.mlp import FAMILY as MLP_FAMILY
from models.registry import FAMILIES, build_network, family_names, forward_flops, label, variants
from models.scan import ScanLSTM, scan_order
from models.tiers import TIERS

SMALLEST = {"image_size": 16, "in_channels": 1, "num_classes": 5}
NANO_VARIANTS = [  # forms of one part; test_models_transformer_forms trains the others
    (name, variant)
    for name in FAMILIES
    for variant in variants(name)
    if variant.startswith("nano") and variant.count("-") <= 1
]


def test_order_and_labels() -> None:
    assert family_names() == ("vit", "resnet", "hybrid", "mixer", "lstm", "mlp")
    labels = [label(name) for name in family_names()]
    assert labels == ["ViT", "ResNet", "Hybrid", "MLP-Mixer", "LSTM", "Fully connected"]
    assert all(family.prior.endswith(".") for family in FAMILIES.values())


@pytest.mark.parametrize(("family", "variant"), NANO_VARIANTS)
def test_untrained_network_predicts_all_classes_alike_and_then_learns(family: str, variant: str) -> None:
    torch.manual_seed(0)
    network = build_network(family, variant, **SMALLEST)
    images, labels = torch.randn(8, 1, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    logits = network(images)
    assert logits.shape == (8, 5)
    assert torch.equal(logits, torch.zeros(8, 5))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.8 * math.log(5)
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(("family", "variant"), [("resnet", "base"), ("hybrid", "base"), ("vit", "small")])
def test_largest_images_reach_the_classifier(family: str, variant: str) -> None:
    with torch.device("meta"):
        network = build_network(family, variant, image_size=224, in_channels=3, num_classes=1000)
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 1000)


def test_stem_suits_the_image_size() -> None:
    with torch.device("meta"):
        small = build_network("resnet", "small", image_size=64, in_channels=3, num_classes=2)
        large = build_network("resnet", "small", image_size=224, in_channels=3, num_classes=2)
    (small_conv, large_conv) = (
        next(module for module in network.modules() if isinstance(module, nn.Conv2d)) for network in (small, large)
    )
    assert (small_conv.kernel_size, small_conv.stride) == ((3, 3), (1, 1))
    assert (large_conv.kernel_size, large_conv.stride) == ((7, 7), (2, 2))
    pools = [sum(isinstance(module, nn.MaxPool2d) for module in network.modules()) for network in (small, large)]
    assert pools == [0, 1]


def test_forms_change_what_they_say() -> None:
    def kinds(family: str, variant: str) -> set[type[nn.Module]]:
        return {type(module) for module in build_network(family, variant, **SMALLEST).modules()}

    assert nn.BatchNorm2d in kinds("resnet", "nano")
    for family in ("resnet", "hybrid"):
        assert nn.GroupNorm in kinds(family, "nano-gn")
        assert nn.BatchNorm2d not in kinds(family, "nano-gn")
    for variant, expected in (("nano", "zeros"), ("nano-circular", "circular")):
        modules = build_network("resnet", variant, **SMALLEST).modules()
        padded = [module for module in modules if isinstance(module, nn.Conv2d) and any(module.padding)]
        assert {module.padding_mode for module in padded} == {expected}
    assert build_network("vit", "nano-nopos", **SMALLEST).pos_embed is None
    lstms = {
        variant: [module for module in build_network("lstm", variant, **SMALLEST).modules() if type(module) is nn.LSTM]
        for variant in ("nano", "nano-raster", "nano-snake")
    }
    assert [(len(found), found[0].bidirectional) for found in lstms.values()] == [(6, True), (3, False), (3, False)]


@pytest.mark.parametrize(
    ("order", "seen"),
    [
        ("raster", [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("column", [0, 3, 6, 1, 4, 7, 2, 5, 8]),
        ("snake", [0, 1, 2, 5, 4, 3, 6, 7, 8]),
        ("shuffled", [5, 7, 1, 2, 4, 3, 8, 6, 0]),
    ],
)
def test_a_scan_sees_only_what_it_has_read(order: str, seen: list[int]) -> None:
    assert list(scan_order(order, 3, 3)) == seen
    layer = ScanLSTM(4, 6, order=order)
    patches = torch.randn(1, 3, 3, 4)
    for place, patch in enumerate(seen):
        changed = patches.clone()
        changed[0, patch // 3, patch % 3] += 1
        differs = (layer(patches) != layer(changed)).any(dim=-1).flatten()
        assert set(differs.nonzero().flatten().tolist()) == set(seen[place:])


def test_scan_orders_read_every_patch_of_any_grid_once() -> None:
    for order in ("raster", "column", "snake", "shuffled"):
        assert sorted(scan_order(order, 2, 5)) == list(range(10))
    assert scan_order("column", 2, 3) == (0, 3, 1, 4, 2, 5)
    with pytest.raises(ValueError, match="there is no scan order 'spiral'; expected raster, column"):
        scan_order("spiral", 2, 2)


def test_hybrid_map_may_shrink_to_a_single_token() -> None:
    stages = ConvStages(16, 1, 4, (4, 8, 8, 8), (1, 1, 1, 1), (2, 2, 2, 2))
    layout = HybridLayout(stages, width=32, depth=2, num_heads=2, mlp_width=64)
    assert stages.out_size == 1
    network = build_hybrid(layout, 3)
    assert network.pos_embed.shape == (1, 1, 32)  # type: ignore[union-attr]
    assert network(torch.randn(2, 1, 16, 16)).shape == (2, 3)


def test_solved_sizes_stay_what_published_results_were_trained_with() -> None:
    def sizes(family: str, form: str = "", image_size: int = 16, tier: str = "nano", in_channels: int = 1) -> Any:
        return FAMILIES[family].layout(TIERS[tier], form, image_size, in_channels)

    assert (sizes("resnet").stages.stem_width, sizes("resnet").stages.widths) == (8, (7, 13, 32))
    assert sizes("resnet", image_size=32, in_channels=3).stages.widths == (8, 16, 32)
    assert sizes("resnet", "gn", 224, "small", 3).stages.widths == (72, 144, 284, 572)
    assert sizes("hybrid").stages.widths == (9, 21)
    assert (sizes("mixer").token_width, sizes("mixer").channel_width) == (28, 128)
    assert (sizes("lstm").hidden_size, sizes("lstm").mlp_width) == (8, 112)
    assert (sizes("lstm", "raster").hidden_size, sizes("lstm", "raster").mlp_width) == (32, 64)
    assert sizes("mlp").layer_widths() == (256, 501, 501, 501, 32)


@pytest.mark.parametrize("tier", ["small", "base"])
def test_fully_connected_is_refused_where_it_would_hold_billions_of_weights(tier: str) -> None:
    for ask in (build_network, forward_flops):
        with pytest.raises(
            ValueError, match=f"'mlp' has no variant '{tier}'.*billion.*use the nano, micro or tiny tier"
        ):
            ask("mlp", tier, image_size=64, in_channels=3, num_classes=10)
    assert variants("mlp") == ("nano", "micro", "tiny")
    assert len(MLP_FAMILY.refused_tiers) == 2


@pytest.mark.parametrize(
    ("family", "variant", "image_size", "message"),
    [
        ("vitt", "nano", 16, r"unknown family 'vitt' \(did you mean 'vit'\?\); expected one of vit, resnet"),
        ("transformer", "nano", 16, "unknown family 'transformer'"),
        ("resnet", "nanoo", 16, r"no variant 'nanoo' \(did you mean 'nano'\?\); expected one of nano, micro, tiny"),
        ("resnet", "nano-circlar", 16, r"did you mean 'nano-circular'\?"),
        ("vit", "nano-gn", 16, "'vit' has no variant 'nano-gn'"),
        (
            "vit",
            "nano",
            64,
            "64 px does not suit the tier 'nano', which is for 16, 28, 32 px: use tiny or small or base",
        ),
        ("vit", "nano", 100, "100 px .*: resize the images"),
        ("timm:resnet81", "nano", 32, "no model 'resnet81'; closest: resnet"),
        ("timm:nest_tiny", "nano", 30, "cannot build it for 1 x 30 x 30 images: `patch_size` must divide"),
        ("nowhere.at_all:build", "nano", 32, "cannot import 'nowhere.at_all'"),
        ("math:biuld", "nano", 32, "'math' has no 'biuld'"),
        ("math:pi", "nano", 32, "'pi' is a float, expected a function"),
    ],
)
def test_what_cannot_be_built_is_said_clearly(family: str, variant: str, image_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_network(family, variant, image_size=image_size, in_channels=1, num_classes=2)
    with pytest.raises(ValueError, match=message):
        forward_flops(family, variant, image_size=image_size, in_channels=1, num_classes=2)


@pytest.mark.parametrize("field", ["image_size", "in_channels", "num_classes"])
def test_impossible_numbers_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0: expected at least"):
        forward_flops("vit", "nano", **(SMALLEST | {field: 0}))


def test_channels_that_no_layout_matches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'resnet', variant 'nano', 4000 x 16 x 16 images: no layout has"):
        forward_flops("resnet", "nano", image_size=16, in_channels=4000, num_classes=2)


def test_timm_family() -> None:
    images = {"image_size": 32, "in_channels": 1, "num_classes": 7}
    network = build_network("timm:resnet10t", "nano", **images)
    assert torch.equal(network(torch.randn(2, 1, 32, 32)), torch.zeros(2, 7))
    flops = forward_flops("timm:resnet10t", "nano", **images)
    assert 2 * flops.total < flops.train_exact < flops.train
    assert label("timm:resnet10t") == "resnet10t"
    assert variants("timm:resnet10t") == ()
    sized = build_network("timm:vit_tiny_patch16_224", "nano", **images)
    assert sized(torch.randn(2, 1, 32, 32)).shape == (2, 7)


def build_linear(*, variant: str, image_size: int, in_channels: int, num_classes: int) -> nn.Module:
    assert variant == "whatever"
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))


@pytest.fixture
def outside_module(monkeypatch: pytest.MonkeyPatch) -> str:
    module = types.ModuleType("outside_package")
    module.build_linear = build_linear  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    registry._counted_flops.cache_clear()
    return "outside_package:build_linear"


class _Raising(nn.Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError("the layer gave up")


def test_a_network_from_outside_that_cannot_be_applied_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("raising_package")
    module.build = lambda variant, image_size, in_channels, num_classes: _Raising(1, 1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    told = (
        r"^raising_package:build: its network cannot be applied to images \[2, 1, 16, 16\].*Error: the layer gave up$"
    )
    with pytest.raises(ValueError, match=told):
        forward_flops("raising_package:build", "nano", **SMALLEST)


def test_family_from_the_users_own_code(outside_module: str) -> None:
    assert build_network(outside_module, "whatever", **SMALLEST)(torch.zeros(2, 1, 16, 16)).shape == (2, 5)
    flops = forward_flops(outside_module, "whatever", **SMALLEST)
    assert flops.total == flops.first_layer == 2 * 256 * 5
    assert label(outside_module) == outside_module


class _EntryPoint:
    def __init__(self, name: str, target: object) -> None:
        self.name, self.value, self._target = name, f"outside_package:{name}", target

    def load(self) -> object:
        return self._target


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    copied = Family("ours", "Ours", "As the ViT.", FAMILIES["vit"].layout, FAMILIES["vit"].build)
    points = [_EntryPoint("ours", copied), _EntryPoint("linear", build_linear), _EntryPoint("broken", 3)]

    def entry_points(*, group: str, name: str | None = None) -> list[_EntryPoint]:
        assert group == external.ENTRY_POINT_GROUP
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    registry._counted_flops.cache_clear()
    yield
    registry._counted_flops.cache_clear()


@pytest.mark.usefixtures("_installed")
def test_families_of_installed_packages() -> None:
    assert family_names()[6:] == ("broken", "linear", "ours")
    assert label("ours") == "Ours"
    assert variants("ours") == ("nano", "micro", "tiny", "small", "base")
    assert forward_flops("ours", "nano", **SMALLEST) == forward_flops("vit", "nano", **SMALLEST)
    assert forward_flops("linear", "whatever", **SMALLEST).total == 2 * 256 * 5
    with pytest.raises(ValueError, match=r"'broken'.*is a int; expected a models\.Family or a function"):
        build_network("broken", "nano", **SMALLEST)
