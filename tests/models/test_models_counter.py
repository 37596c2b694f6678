"""The arithmetic of every family against the corrected counter on the meta device."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from models.counter import count_flops, count_forward_flops, count_training_flops, on_meta_device
from models.lstm import LSTMLayout, build_lstm, lstm_layout
from models.registry import FAMILIES, build_network, forward_flops
from models.tiers import TIERS, split_variant
from models.transformer_form import form_names

CASES = [
    (name, variant, size)
    for name, family in FAMILIES.items()
    if name != "lstm"
    for variant in family.variants()
    for size in TIERS[split_variant(variant)[0]].patch_sizes
    # a form has the layout of its tier; those of the transformer are counted in test_models_transformer_forms
    if variant in TIERS or (variant.startswith("nano") and split_variant(variant)[1] not in form_names())
]
LSTM_CASES = [
    (variant, size)
    for variant in FAMILIES["lstm"].variants()
    for size in TIERS[split_variant(variant)[0]].patch_sizes
    # one long scan takes seconds to count: of the larger tiers one size, and the orders cost alike
    if "-" not in variant or (variant.endswith("-raster") and size == 64) or variant.startswith("nano-")
]


def initial_state_flops(layout: LSTMLayout) -> int:
    """Backward FLOPs of the products with the initial state, which is constant and needs no gradient."""
    grid_size = layout.image_size // layout.patch_size
    num_sequences = 1 if layout.scan else 4 * grid_size
    return layout.depth * num_sequences * 2 * 4 * layout.hidden_size**2


@pytest.mark.parametrize(("family", "variant", "image_size"), CASES)
def test_arithmetic_equals_the_counter(family: str, variant: str, image_size: int) -> None:
    images = {"image_size": image_size, "in_channels": 3, "num_classes": 10}
    with on_meta_device():
        network = build_network(family, variant, **images)
    assert count_flops(network, (2, 3, image_size, image_size)) == forward_flops(family, variant, **images)


@pytest.mark.parametrize(("variant", "image_size"), LSTM_CASES)
def test_lstm_arithmetic_equals_the_counter(variant: str, image_size: int) -> None:
    tier, form = split_variant(variant)
    full = lstm_layout(TIERS[tier], form, image_size, 3)
    layout = replace(full, depth=1)  # blocks are alike, and the counter takes a second for each
    with on_meta_device():
        network = build_lstm(layout, 10)
    counted, expected = count_flops(network, (2, 3, image_size, image_size)), layout.forward_flops(10)
    assert counted.total == expected.total
    assert counted.train_exact + initial_state_flops(layout) == expected.train_exact
    assert full.forward_flops(10) == forward_flops(
        "lstm", variant, image_size=image_size, in_channels=3, num_classes=10
    )
    head = full.forward_flops(10).total - full.feature_flops().total
    assert full.feature_flops().total - expected.first_layer == full.depth * (
        expected.total - head - expected.first_layer
    )
    assert initial_state_flops(full) < 0.01 * full.forward_flops(10).train_exact


@pytest.mark.parametrize(
    ("name", "published_gmacs"),
    [
        ("resnet18", 1.8141),
        ("resnet50", 4.0892),
        ("convnext_tiny", 4.4555),
        ("vit_tiny_patch16_224", 1.2537),
        ("vit_base_patch16_224", 17.5638),
        ("mixer_b16_224", 12.6018),
    ],
)
def test_counter_gives_the_published_multiply_adds(name: str, published_gmacs: float) -> None:
    with on_meta_device():
        network = timm.create_model(name)
    assert count_forward_flops(network, (2, 3, 224, 224)) / 2e9 == pytest.approx(published_gmacs, abs=5e-5)


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 64, batch_first=True)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.lstm(sequence)[0]
        return states


def test_lstm_is_counted() -> None:
    assert 4 * count_forward_flops(LastState(), (4, 16, 32)) == 3_145_728


def test_grouped_convolution_backward_costs_what_forward_does() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False))
    flops = count_flops(network, (2, 3, 6, 6))
    first, grouped = 2 * 3 * 8 * 36, 2 * 8 * 9 * 36
    assert flops.total == first + grouped
    assert flops.train_exact == 2 * first + 3 * grouped


def test_transposed_convolution_backward_costs_what_forward_does() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False))
    flops = count_flops(network, (2, 3, 5, 5))
    first, transposed = 2 * 3 * 4 * 25, 2 * 4 * 6 * 4 * 25
    assert flops.total == first + transposed
    assert flops.train_exact == 2 * first + 3 * transposed


class FusedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(8, 8, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        projected = self.projection(tokens)[:, None]
        return F.scaled_dot_product_attention(projected, projected, projected)


def test_fused_attention_is_counted_without_recomputation() -> None:
    projection, attention = 2 * 5 * 8 * 8, 2 * 2 * 5 * 5 * 8
    flops = count_flops(FusedAttention(), (2, 5, 8))
    assert flops.total == projection + attention
    assert flops.train_exact == 2 * projection + 3 * attention


def test_one_example_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of at least 2"):
        count_forward_flops(nn.Linear(3, 4), (1, 3))


def test_counting_leaves_the_network_where_it_is() -> None:
    network = nn.Linear(3, 4).eval()
    count_training_flops(network, (2, 3))
    assert network.weight.device.type == "cpu"
    assert network.weight.grad is None
    assert not network.training
