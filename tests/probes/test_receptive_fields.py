"""Effective receptive field: as wide as it must be, where it must be."""

import math

import numpy as np
import pytest
import torch
from probed_networks import (
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
from studies.probes import ProbeError
from studies.probes.receptive_fields import radii, receptive_field

UNIFORM = math.sqrt((16**2 - 1) / 6)  # of equal weights on 16 x 16 pixels


@pytest.mark.parametrize("kernel", [3, 5])
def test_one_convolution_sees_its_kernel_and_nothing_else(kernel: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, kernel, padding=kernel // 2), nn.GELU())
    field = receptive_field(network, batches_of(images())).arrays["0"]
    reach = kernel // 2
    seen = np.zeros((16, 16), dtype=bool)
    seen[8 - reach : 9 + reach, 8 - reach : 9 + reach] = True
    assert ((field > 0) == seen).all()
    assert field.sum() == pytest.approx(1)


def test_equal_kernels_spread_with_the_square_root_of_depth() -> None:
    """Luo et al.: n kernels of k x k equal weights have the variance n (k^2 - 1) / 12 along each side."""
    network = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(6)])
    for convolution in network:
        nn.init.ones_(convolution.weight)
    found = values(receptive_field(network, batches_of(images())), "receptive_field_rms")
    names = ["0", "1", "2", "3", "4", "logits"]
    assert found == pytest.approx({name: math.sqrt(2 * n * (9 - 1) / 12) for n, name in enumerate(names, 1)}, rel=1e-4)


def test_channels_do_not_cancel() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.GELU())
    kernel = torch.ones(3, 3)
    network[0].weight.data = torch.stack([kernel, -kernel])[:, None]
    field = receptive_field(network, batches_of(images())).arrays["0"]
    assert np.count_nonzero(field) == 9


def test_radii_hold_what_they_say() -> None:
    weights = np.zeros((9, 9))
    weights[4, 4], weights[4, 6], weights[4, 2], weights[0, 4], weights[8, 4] = 5, 2, 2, 0.5, 0.5
    found = radii(weights)
    assert found["receptive_field_50"] == 0
    assert found["receptive_field_90"] == 2
    assert found["receptive_field_rms"] == pytest.approx(math.sqrt((4 * 4 + 1 * 16) / 10))
    assert radii(np.ones((16, 16)))["receptive_field_rms"] == pytest.approx(UNIFORM)


def test_a_fully_connected_network_sees_the_whole_image() -> None:
    found = receptive_field(nano("mlp"), batches_of(images()))
    assert all(value == pytest.approx(UNIFORM, rel=0.1) for value in values(found, "receptive_field_rms").values())
    assert all((field > 0).all() for field in found.arrays.values())


def test_a_patch_embedding_sees_its_patch_and_attention_everything() -> None:
    fields = receptive_field(nano("vit"), batches_of(images())).arrays
    assert (np.argwhere(fields["patch_embed"] > 0).min(0) == 8).all()
    assert np.count_nonzero(fields["patch_embed"]) == 16
    assert np.count_nonzero(fields["blocks.0"]) == 256
    assert fields["blocks.0"].dtype == np.float32


def test_logits_have_a_field_and_no_depth() -> None:
    found = receptive_field(convolutional(nn.GELU, depth=3), batches_of(images()))
    depths = {reading.layer: reading.depth for reading in found.readings}
    assert depths.pop("logits") is None
    assert list(depths.values()) == list(range(len(depths)))


def test_the_field_of_a_convolutional_network_grows_with_depth() -> None:
    found = values(receptive_field(convolutional(nn.GELU, depth=3), batches_of(images())), "receptive_field_90")
    assert found["0"] < found["2"] < found["4"] < found["features"]


@every_family
def test_every_family(family: str) -> None:
    network = nano(family)
    with left_as_it_was(network):
        found = receptive_field(network, batches_of(images(), batch_size=3), num_images=6)
    assert {reading.num_images for reading in found.readings} == {6}
    assert {"features", "logits"} <= set(found.arrays) == {reading.layer for reading in found.readings}
    assert all(reading.value > 0 for reading in found.readings if reading.quantity == "receptive_field_rms")
    again = receptive_field(network, batches_of(images(), batch_size=3), num_images=6)
    assert found.readings == again.readings


def test_an_untrained_network_has_no_field_of_its_constant_logits() -> None:
    torch.manual_seed(0)
    network = build_network("vit", "nano", image_size=16, in_channels=1, num_classes=5)
    fields = receptive_field(network, batches_of(images())).arrays
    assert "features" in fields
    assert "logits" not in fields
    with pytest.raises(ProbeError, match="depends on the image"):
        receptive_field(_blind(), batches_of(images()))


def _blind() -> nn.Module:
    linear = nn.Linear(256, 2)
    nn.init.zeros_(linear.weight)
    return nn.Sequential(nn.Flatten(), linear, nn.Linear(2, 2))


def test_frozen_networks_inference_and_errors() -> None:
    network = nano("vit").requires_grad_(False)
    expected = receptive_field(network, batches_of(images()))
    with torch.inference_mode():
        assert receptive_field(network, batches_of(images())).readings == expected.readings
    broken = breaks_in_the_middle(convolutional(nn.GELU), 1)
    with left_as_it_was(broken), pytest.raises(RuntimeError, match="out of passes"):
        receptive_field(broken, batches_of(images()))


def linear(kernels: torch.Tensor) -> nn.Module:
    """One convolution of these kernels `[C, colors, 3, 3]` without bias, and what follows."""
    convolution = nn.Conv2d(kernels.shape[1], len(kernels), 3, padding=1, bias=False)
    convolution.weight.data = kernels
    return nn.Sequential(convolution, nn.GELU(), nn.Flatten(), nn.Linear(256 * len(kernels), 2))


def test_colors_of_opposite_sign_do_not_cancel() -> None:
    kernel = torch.arange(1.0, 10).reshape(3, 3)
    field = receptive_field(linear(torch.stack([kernel, -kernel])[None]), batches_of(images(4, 2))).arrays["0"]
    np.testing.assert_allclose(field[7:10, 7:10], kernel / kernel.sum(), rtol=1e-5)


def test_the_field_is_the_mean_over_signs_of_what_channels_add_up_to() -> None:
    """Of kernels a and b, `E |±a ± b| = (|a + b| + |a - b|) / 2`: 1 where a is 1, whether b is 1 or 0."""
    first, second = torch.zeros(3, 3), torch.zeros(3, 3)
    first[1, 0] = first[1, 2] = second[1, 0] = 1
    field = receptive_field(linear(torch.stack([first, second])[:, None]), batches_of(images(600), batch_size=600),
                            num_images=600).arrays["0"]  # fmt: skip
    assert field[8, 7] == pytest.approx(field[8, 9], rel=0.15)


def test_half_precision_has_a_field() -> None:
    network, pictures = linear(torch.ones(2, 1, 3, 3)), images(4)
    expected = receptive_field(network, batches_of(pictures)).arrays["0"]
    found = receptive_field(network.bfloat16(), batches_of(pictures.bfloat16())).arrays["0"]
    np.testing.assert_allclose(found, expected, atol=1e-3)
