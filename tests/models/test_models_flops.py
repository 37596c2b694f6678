"""Families of a tier spend the same, and the arithmetic agrees with published numbers."""

import itertools
import subprocess
import sys

import pytest

from models.convolution import ConvStages
from models.families import Family
from models.flops import ForwardFlops, lstm_flops
from models.mixer import MixerLayout
from models.registry import FAMILIES, forward_flops
from models.resnet import ResNetLayout
from models.tiers import TIERS, split_variant
from models.transformer_form import TransformerForm
from models.vit import ViTLayout

TIER_AND_SIZE = [(tier.name, size) for tier in TIERS.values() for size in tier.patch_sizes]


def tier_variants(family: Family, tier: str) -> list[str]:
    return [variant for variant in family.variants() if split_variant(variant)[0] == tier]


@pytest.mark.parametrize(("tier", "image_size"), TIER_AND_SIZE)
def test_all_families_and_forms_of_a_tier_agree_within_two_percent(tier: str, image_size: int) -> None:
    for in_channels, num_classes in itertools.product((1, 3), (2, 10, 100, 1000)):
        totals = {
            f"{name} {variant}": forward_flops(
                name, variant, image_size=image_size, in_channels=in_channels, num_classes=num_classes
            ).total
            for name, family in FAMILIES.items()
            for variant in tier_variants(family, tier)
        }
        assert len(totals) >= 10
        assert max(totals.values()) <= 1.02 * min(totals.values()), (in_channels, num_classes, totals)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_channels", [2, 4, 13])
def test_other_numbers_of_channels_are_matched_too(family: str, num_channels: int) -> None:
    images = {"image_size": 32, "in_channels": num_channels, "num_classes": 10}
    reference = forward_flops("vit", "tiny", **images).total
    assert forward_flops(family, "tiny", **images).total == pytest.approx(reference, rel=0.02)


def test_nano_is_small_enough_for_one_cpu_core() -> None:
    for name in FAMILIES:
        small, large = (
            forward_flops(name, "nano", image_size=size, in_channels=3, num_classes=1000).total for size in (16, 32)
        )
        assert 1.2e6 < small < 1.5e6
        assert 6e6 < large <= 16e6


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_change_the_classifier_only(family: str) -> None:
    few, many = (
        forward_flops(family, "nano", image_size=16, in_channels=1, num_classes=classes) for classes in (2, 1000)
    )
    assert many.total - few.total == 2 * 32 * 998
    assert many.first_layer == few.first_layer


def test_training_is_three_forward_passes_and_exact_training_saves_the_input_gradient() -> None:
    flops = ForwardFlops(total=100, first_layer=7)
    assert flops.train == 300
    assert flops.train_exact == 293


def test_exact_training_share_of_the_fully_connected_net_is_in_the_published_range() -> None:
    flops = forward_flops("mlp", "nano", image_size=32, in_channels=3, num_classes=10)
    assert 2.06 <= flops.train_exact / flops.total <= 2.69


def resnet_at_224(depths: tuple[int, ...], *, bottleneck: bool) -> ResNetLayout:
    widths, strides = (64, 128, 256, 512), (1, 2, 2, 2)
    return ResNetLayout(ConvStages(224, 3, 64, widths, depths, strides, bottleneck=bottleneck, reducing_stem=True))


@pytest.mark.parametrize(
    ("layout", "published_gmacs"),
    [
        (resnet_at_224((2, 2, 2, 2), bottleneck=False), 1.8141),
        (resnet_at_224((3, 4, 6, 3), bottleneck=True), 4.0892),
        (ViTLayout(224, 3, 16, 192, 12, 3, 768, TransformerForm(class_token=True)), 1.2537),
        (ViTLayout(224, 3, 16, 768, 12, 12, 3072, TransformerForm(class_token=True)), 17.5638),
        (MixerLayout(224, 3, 16, 768, 12, 384, 3072), 12.6018),
    ],
    ids=["resnet18", "resnet50", "vit_tiny_patch16", "vit_base_patch16", "mixer_b16"],
)
def test_arithmetic_gives_the_published_multiply_adds(
    layout: ResNetLayout | ViTLayout | MixerLayout, published_gmacs: float
) -> None:
    assert layout.forward_flops(1000).total / 2e9 == pytest.approx(published_gmacs, abs=5e-5)


def test_lstm_known_answer() -> None:
    assert 4 * lstm_flops(16, 32, 64) == 3_145_728


def test_counting_and_naming_load_no_torch() -> None:
    program = (
        "import sys, models; "
        "models.forward_flops('resnet', 'base', image_size=224, in_channels=3, num_classes=1000); "
        "models.label('vit'), models.variants('lstm'), models.learning_rate_factor; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
