"""Translation equivariance error: zero where it must be, and not where it must not."""

import math

import pytest
import torch
from probed_networks import (
    Logits,
    batches_of,
    breaks_in_the_middle,
    convolutional,
    every_family,
    images,
    left_as_it_was,
    nano,
    values,
)
from torch import nn

from models import build_network
from studies.probes import Probed, ProbeError
from studies.probes.layers import Layer
from studies.probes.lie_derivative import _derivatives, equivariance
from studies.probes.places import Arrangement
from studies.probes.translation import band_limited, translated


def waves(size: int, shift: float = 0.0) -> torch.Tensor:
    places = torch.arange(size, dtype=torch.float64) - shift
    return (torch.cos(2 * math.pi * 2 * places / size + 1) + torch.sin(2 * math.pi * 3 * places / size))[None, None]


@pytest.mark.parametrize("size", [15, 16])
def test_waves_are_moved_exactly_by_any_fraction(size: int) -> None:
    rows = waves(size)[..., None].expand(1, 1, size, size)
    expected = waves(size, 0.3)[..., None].expand(1, 1, size, size)
    torch.testing.assert_close(translated(rows, 0.3, 2), expected)
    torch.testing.assert_close(translated(rows.mT, 0.3, 3), expected.mT)
    torch.testing.assert_close(translated(rows, 2.0, 2), rows.roll(2, 2))


def test_nyquists_frequency_has_no_direction() -> None:
    fastest = torch.tensor([1.0, -1.0] * 8).reshape(1, 1, 16, 1)
    torch.testing.assert_close(translated(fastest, 0.1, 2), translated(fastest, -0.1, 2))
    torch.testing.assert_close(translated(fastest, 1.0, 2), -fastest)
    assert band_limited(fastest, 1.0).abs().max() < 1e-6  # strictly below


def test_a_band_keeps_what_is_below_it_alone() -> None:
    slow, fast = waves(16)[..., None].expand(1, 1, 16, 16), torch.cos(torch.arange(16.0).double() * math.pi / 2)
    torch.testing.assert_close(band_limited(slow + fast[:, None] + fast, 0.5), slow)


def test_linear_circular_networks_have_no_error_on_any_band() -> None:
    found = equivariance(convolutional(nn.Identity), batches_of(images()), band=1.0)
    assert set(values(found, "equivariance_error")) == {"0", "2", "features", "logits"}
    assert all(value < 1e-4 for value in values(found, "equivariance_error").values())
    assert all(value < 1e-5 for value in values(found, "equivariance_ratio").values())


def test_smooth_circular_networks_have_no_error_on_a_low_band_and_relu_has() -> None:
    def found(kind: type[nn.Module], band: float) -> Probed:
        return equivariance(convolutional(kind), batches_of(images()), band=band)

    assert all(value < 1e-3 for value in values(found(nn.GELU, 0.25), "equivariance_error").values())
    smooth, kinked, noisy = found(nn.GELU, 0.5), found(nn.ReLU, 0.5), found(nn.ReLU, 1.0)
    for layer in ("1", "3"):
        errors = [values(one, "equivariance_ratio")[layer] for one in (smooth, kinked, noisy)]
        assert errors[0] < 0.02 < 0.15 < errors[1] < 0.4 < errors[2]
    assert values(smooth, "equivariance_error")["logits"] < 1e-3 < 0.1 < values(kinked, "equivariance_error")["logits"]


def test_a_stride_is_followed_where_nothing_is_folded() -> None:
    """8 of 16 pixels remain, and the images are slower than what 8 can hold; without the stride, half is missed."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1, padding_mode="circular"))
    network.append(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
    low, high = (
        values(equivariance(network, batches_of(images()), band=band), "equivariance_ratio") for band in (0.5, 1)
    )
    assert low["0"] < 1e-5
    assert high["0"] > 0.3  # aliasing


def test_borders_of_zeros_are_an_error() -> None:
    found = equivariance(convolutional(nn.Identity, padding_mode="zeros"), batches_of(images()))
    ratios = values(found, "equivariance_ratio")
    assert 0.1 < ratios["0"] < ratios["2"] < 1
    assert values(found, "equivariance_error")["features"] > 0.05


def test_logits_have_an_error_and_no_depth() -> None:
    found = equivariance(convolutional(nn.GELU, depth=3), batches_of(images()))
    depths = {one.layer: one.depth for one in found.readings if one.quantity == "equivariance_error"}
    assert depths.pop("logits") is None
    assert list(depths.values()) == list(range(len(depths)))


def test_a_fully_connected_network_is_not_invariant() -> None:
    found = equivariance(nano("mlp"), batches_of(images()))
    assert set(values(found, "equivariance_error")) == {"layer1", "layer2", "layer3", "features", "logits"}
    assert all(value > 0.2 for value in values(found, "equivariance_error").values())
    assert values(found, "equivariance_ratio") == {}


def test_the_error_of_an_output_that_reads_a_pixel_is_the_speed_of_that_pixel() -> None:
    """On `cos(2 pi f x + phase)` with every phase, the derivative over the deviation is `2 pi f` along one side."""
    phases = torch.arange(8) / 8 * 2 * math.pi
    pictures = torch.cos(2 * math.pi * 2 * torch.arange(16.0) / 16 + phases[:, None])[:, None, None].expand(
        8, 1, 16, 16
    )
    reader = Logits(lambda given: given[:, :, 5, 7])
    found = values(equivariance(reader, batches_of(pictures)), "equivariance_error")
    speed = 2 * math.pi * 2 / 16
    expected = speed / math.sqrt(2) * math.sqrt(7 / 8)  # of two sides one; the deviation has one degree less
    assert found[0.5] == pytest.approx(expected, rel=5e-3)


def test_scale_and_offset_of_an_output_do_not_matter() -> None:
    network = nano("vit")
    before = values(equivariance(network, batches_of(images())), "equivariance_error")
    network.head.weight.data *= 100
    network.head.bias.data += 3
    after = values(equivariance(network, batches_of(images())), "equivariance_error")
    assert after == pytest.approx(before, rel=1e-3)


@every_family
def test_every_family(family: str) -> None:
    network = nano(family)
    with left_as_it_was(network):
        found = equivariance(network, batches_of(images(), batch_size=3), num_images=6)
    assert {reading.num_images for reading in found.readings} == {6}
    assert {"features", "logits"} <= set(values(found, "equivariance_error"))
    whole = equivariance(network, batches_of(images(), batch_size=8), num_images=6)
    assert values(whole, "equivariance_error") == pytest.approx(values(found, "equivariance_error"), rel=1e-3)


def test_an_untrained_network_has_no_error_of_its_constant_logits() -> None:
    torch.manual_seed(0)
    network = build_network("vit", "nano", image_size=16, in_channels=1, num_classes=5)
    found = values(equivariance(network, batches_of(images())), "equivariance_error")
    assert "features" in found
    assert "logits" not in found
    constant = Logits(lambda given: torch.ones(len(given), 2))
    with pytest.raises(ProbeError, match="different outputs"):
        equivariance(constant, batches_of(images()))


def test_the_network_is_left_as_it_was_after_an_error() -> None:
    network = breaks_in_the_middle(convolutional(nn.GELU), 3)
    with left_as_it_was(network), pytest.raises(RuntimeError, match="out of passes"):
        equivariance(network, batches_of(images()))


def test_mistakes_are_told() -> None:
    network = convolutional(nn.GELU)
    with pytest.raises(ValueError, match="band=0"):
        equivariance(network, batches_of(images()), band=0)
    with pytest.raises(ProbeError, match="two images"):
        equivariance(network, batches_of(images(1)))


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_columns_have_strides_of_their_own(axis: int) -> None:
    """A map of every second row and every column moves with the image, half a step and a whole one."""
    pictures = band_limited(images(), 0.4)
    layer = Layer("map", "map", Arrangement.MAP, grid=(8, 16), stride=(2.0, 1.0))
    trio = tuple(translated(pictures, shift, axis + 2)[:, :, ::2] for shift in (0.0, 0.1, -0.1))
    lie, with_image, _ = _derivatives(layer, trio, 0.1, axis)  # type: ignore[arg-type]
    assert lie.square().mean() < 1e-8 * with_image.square().mean()


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_is_moved_in_float32(precision: torch.dtype) -> None:
    pictures = images(size=12)  # no power of 2
    for function in (lambda given: translated(given, 0.3, 2), lambda given: band_limited(given, 0.5)):
        found = function(pictures.to(precision))
        assert found.dtype == precision
        torch.testing.assert_close(found.float(), function(pictures), atol=0.05, rtol=0.02)
    network = convolutional(nn.ReLU, padding_mode="zeros")
    expected = values(equivariance(network, batches_of(pictures)), "equivariance_error")
    half = equivariance(network.to(precision), batches_of(pictures.to(precision)))
    assert set(values(half, "equivariance_error")) == set(expected)
