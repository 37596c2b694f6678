"""Filters of the first layer, and how smooth and how local they are, where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from models import build_network
from studies.probes import Probed, ProbeError
from studies.probes.filters import filter_radius, first_layer, low_frequency_share, principal_components


def batches(size: int = 16, channels: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.zeros(2, channels, size, size), torch.zeros(2, dtype=torch.int64))]


def nano(family: str) -> nn.Module:
    torch.manual_seed(0)
    return build_network(family, "nano", image_size=16, in_channels=3, num_classes=4)


def value(probed: Probed, quantity: str) -> float:
    (found,) = (reading.value for reading in probed.readings if reading.quantity == quantity)
    return found


@pytest.mark.parametrize(
    ("family", "layer"), [("vit", "patch_embed.proj"), ("mixer", "stem.proj"), ("lstm", "stem.proj")]
)
def test_patch_embeddings_give_principal_components(family: str, layer: str) -> None:
    network = nano(family)
    found = first_layer(network, batches())
    components = found.arrays["components"]
    assert components.shape == (28, 3, 4, 4)
    assert {reading.layer for reading in found.readings} == {layer}
    explained = [one.value for one in found.readings if one.quantity == "explained_variance"]
    assert [one.setting for one in found.readings if one.quantity == "explained_variance"] == list(range(1, 29))
    assert explained == sorted(explained, reverse=True)
    assert 0.9 < sum(explained) < 1
    flat = components.reshape(28, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(28), atol=1e-5)
    filters = network.get_submodule(layer).weight.detach().double().flatten(1).numpy()
    projected = (filters - filters.mean(axis=0)) @ flat.T
    np.testing.assert_allclose(projected.var(axis=0) / filters.var(axis=0).sum(), explained, rtol=1e-4)
    assert first_layer(network, batches(), num_components=2).arrays["components"].shape == (2, 3, 4, 4)


def test_convolutions_give_their_kernels() -> None:
    for family in ("resnet", "hybrid"):
        network = nano(family)
        found = first_layer(network, batches())
        layer = found.readings[0].layer
        np.testing.assert_array_equal(found.arrays["filters"], network.get_submodule(layer).weight.detach())
        assert found.arrays["filters"].shape[1:] == (3, 3, 3)
    overlapping = nn.Sequential(nn.Conv2d(3, 64, 7, stride=2, padding=3), nn.Flatten())
    assert first_layer(overlapping, batches()).arrays["filters"].shape == (64, 3, 7, 7)


def test_rows_of_a_fully_connected_layer_are_images_the_largest_first() -> None:
    network = nano("mlp")
    with torch.no_grad():
        weights = network.layer1.linear.weight  # type: ignore[union-attr]
        weights[5] = 0
        weights[5, 16 * 16 + 2 * 16 + 7] = 100.0  # channel 1, row 2, column 7
    found = first_layer(network, batches())
    filters = found.arrays["filters"]
    assert filters.shape == (28, 3, 16, 16)
    assert np.unravel_index(filters[0].argmax(), (3, 16, 16)) == (1, 2, 7)
    norms = np.linalg.norm(filters.reshape(28, -1), axis=1)
    assert (np.diff(norms) <= 0).all()


def test_components_of_filters_made_of_two_patterns_are_those_patterns() -> None:
    generator = np.random.default_rng(0)
    patterns = np.linalg.qr(generator.normal(size=(48, 2)))[0].T
    amounts = generator.normal(size=(40, 2)) * [3, 1]
    amounts = np.linalg.qr(amounts - amounts.mean(axis=0))[0] * [3, 1]
    filters = (amounts @ patterns + 5).reshape(40, 3, 4, 4)
    components, explained = principal_components(filters, 2)
    np.testing.assert_allclose(explained, [0.9, 0.1], atol=1e-12)
    np.testing.assert_allclose(np.abs(components.reshape(2, -1) @ patterns.T), np.eye(2), atol=1e-10)
    assert (np.abs(components).max(axis=(1, 2, 3)) == components.max(axis=(1, 2, 3))).all()


def test_the_share_of_low_frequencies_is_the_integral_of_the_spectrum() -> None:
    filters = np.random.default_rng(0).normal(size=(5, 3, 4, 6))
    size = 256
    power = np.abs(np.fft.fft2(filters, s=(size, size))) ** 2
    below = np.abs(np.fft.fftfreq(size)) < 0.25
    edge = np.abs(np.fft.fftfreq(size)) == 0.25  # half inside
    inside = below + edge / 2
    expected = (power * np.outer(inside, inside)).sum() / power.sum()
    assert low_frequency_share(filters) == pytest.approx(expected, abs=3e-4)


def test_known_filters_have_known_smoothness_and_size() -> None:
    rows, columns = np.mgrid[:8, :8]
    pixel = np.zeros((1, 1, 8, 8))
    pixel[0, 0, 2, 5] = 3
    even = np.ones((2, 3, 8, 8))
    checks = (-1.0) ** (rows + columns)[None, None]
    noise = np.random.default_rng(0).normal(size=(4000, 3, 8, 8))
    assert low_frequency_share(pixel) == pytest.approx(0.25)
    assert low_frequency_share(even) > 0.9
    assert low_frequency_share(checks) < 0.01
    assert low_frequency_share(noise) == pytest.approx(0.25, abs=0.005)
    assert filter_radius(pixel) == 0
    assert filter_radius(even) == pytest.approx(math.sqrt((8**2 - 1) / 6))
    assert filter_radius(np.concatenate([pixel, np.roll(pixel, 3, axis=2)])) == 0  # each about its own centre
    pair = np.zeros((1, 1, 8, 8))
    pair[0, 0, 1, 1] = pair[0, 0, 4, 5] = 1  # 5 px apart
    assert filter_radius(pair) == pytest.approx(2.5)


def test_smooth_filters_are_told_from_noise_in_a_network() -> None:
    network = nano("vit")
    assert value(first_layer(network, batches()), "low_frequency_share") == pytest.approx(0.25, abs=0.05)
    with torch.no_grad():
        network.patch_embed.proj.weight.copy_(torch.randn(32, 3, 1, 1).expand(-1, -1, 4, 4))  # type: ignore[operator, union-attr]
    assert value(first_layer(network, batches()), "low_frequency_share") > 0.7


def test_what_has_no_filters_is_told() -> None:
    with pytest.raises(ProbeError, match="no convolution"):
        first_layer(nn.Flatten(), batches())
    with pytest.raises(ProbeError, match="not the 768 of an image"):
        first_layer(nn.Linear(16, 2), batches())
    network = nano("vit")
    with torch.no_grad():
        network.patch_embed.proj.weight.fill_(1)  # type: ignore[operator, union-attr]
    with pytest.raises(ProbeError, match="all alike"):
        first_layer(network, batches())
    with torch.no_grad():
        network.patch_embed.proj.weight.zero_()  # type: ignore[operator, union-attr]
    with pytest.raises(ProbeError, match="zero or not finite"):
        first_layer(network, batches())
    assert not any(module._forward_pre_hooks for module in network.modules())
