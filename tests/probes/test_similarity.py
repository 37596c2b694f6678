"""Similarity of representations: its invariances, its lack of bias, and what it says where it is undefined."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from models import build_network, family_names
from studies.probes import ProbeError
from studies.probes.similarity import Similarity, centred_gram, feature_similarity, representation_similarity

Batch = tuple[torch.Tensor, torch.Tensor]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batched(images: torch.Tensor, size: int) -> list[Batch]:
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in images.split(size)]


class Shows(nn.Module):
    """A network whose features are a given function of its images `[B, 1, 1, C]`, flattened."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], width: int) -> None:
        super().__init__()
        self.function = function
        self.head = nn.Linear(width, 2).double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.function(images.flatten(1)))
        return logits


def compared(
    first: Callable[[torch.Tensor], torch.Tensor],
    second: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    size: int,
) -> float:
    networks = {}
    for name, function in (("a", first), ("b", second)):
        networks[name] = Shows(function, function(images[:1].flatten(1)).shape[1])
    return float(feature_similarity(networks, batched(images, size)).values[0, 1])


def song(first: torch.Tensor, second: torch.Tensor) -> float:
    """HSIC_1 as it is written, with loops."""
    size = len(first)
    grams = [(one @ one.T).numpy().copy() for one in (first, second)]
    for gram in grams:
        np.fill_diagonal(gram, 0)
    one = np.ones(size)
    trace = sum(grams[0][i, j] * grams[1][j, i] for i in range(size) for j in range(size))
    sums = (one @ grams[0] @ one) * (one @ grams[1] @ one) / ((size - 1) * (size - 2))
    return float((trace + sums - 2 / (size - 2) * (one @ grams[0] @ grams[1] @ one)) / (size * (size - 3)))


def plain_cka(first: torch.Tensor, second: torch.Tensor) -> float:
    """The biased estimator of Kornblith et al."""
    one, other = (part - part.mean(dim=0) for part in (first, second))
    cross, own, others = (a.T @ b for a, b in ((one, other), (one, one), (other, other)))
    return float(cross.norm() ** 2 / (own.norm() * others.norm()))


@pytest.mark.parametrize("size", [4, 5, 12])
def test_scalar_products_are_the_unbiased_estimate_of_song(size: int) -> None:
    first, second = numbers(size, 3) + 2, numbers(size, 7, seed=1)
    product = float((centred_gram(first) * centred_gram(second)).sum()) / (size * (size - 3))
    assert product == pytest.approx(song(first, second), rel=1e-10)


def test_the_same_up_to_rotation_scale_and_shift_is_one() -> None:
    images = numbers(40, 1, 1, 6)
    rotation = torch.linalg.qr(numbers(6, 6, seed=3)).Q
    assert compared(lambda x: x, lambda x: 7 * x @ rotation + 3, images, 10) == pytest.approx(1, abs=1e-12)
    stretched = torch.tensor([9.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    assert compared(lambda x: x, lambda x: x * stretched, images, 10) < 0.9


def test_independent_features_are_unlike_without_the_bias_of_the_plain_estimator() -> None:
    images = numbers(320, 1, 1, 400)
    ours = compared(lambda x: x[:, :200], lambda x: x[:, 200:], images, 16)
    flat = images.flatten(1)
    plain = np.mean([plain_cka(part[:, :200], part[:, 200:]) for part in flat.split(16)])
    assert plain > 0.85
    assert abs(ours) < 0.08


def test_small_batches_agree_with_one_large_one() -> None:
    images = numbers(512, 1, 1, 8)
    mixing = numbers(8, 8, seed=5)

    def similarity(size: int) -> float:
        return compared(lambda x: x, lambda x: (x @ mixing).relu(), images, size)

    whole = similarity(512)
    assert 0.2 < whole < 0.9
    assert similarity(8) == pytest.approx(whole, abs=0.03)
    plain = [plain_cka(part, (part @ mixing).relu()) for part in images.flatten(1).split(8)]
    assert np.mean(plain) > whole + 0.1


def test_a_batch_counts_by_its_pairs_and_one_too_small_does_not_count() -> None:
    images = numbers(21, 1, 1, 5)
    networks = {"a": Shows(lambda x: x, 5), "b": Shows(torch.tanh, 5)}
    uneven = [*batched(images[:18], 12), *batched(images[18:], 3)]  # 12, 6 and 3 images
    found = feature_similarity(networks, uneven)
    assert found.num_images == 18
    sums = dict.fromkeys(("ab", "aa", "bb"), 0.0)
    for part in (images[:12].flatten(1), images[12:18].flatten(1)):
        for pair in sums:
            one, other = ({"a": part, "b": part.tanh()}[name] for name in pair)
            sums[pair] += song(one, other) * len(part) * (len(part) - 3)
    assert found.values[0, 1] == pytest.approx(sums["ab"] / np.sqrt(sums["aa"] * sums["bb"]), rel=1e-10)
    with pytest.raises(ProbeError, match="at most 3 images"):
        feature_similarity(networks, batched(images, 3))


def nano(family: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(family, "nano", image_size=16, in_channels=1, num_classes=3)


@pytest.mark.parametrize("family", family_names()[:6])
def test_layers_of_every_family_compare(family: str) -> None:
    batches = batched(numbers(16, 1, 16, 16).float(), 8)
    network = nano(family, 0)
    found = representation_similarity(network, network, batches)
    assert found.first == found.second
    assert found.first[-1] == "features"
    assert found.undefined == ("first: logits", "second: logits")  # an untrained classifier is zero
    np.testing.assert_allclose(np.diag(found.values), 1, atol=1e-10)
    np.testing.assert_allclose(found.values, found.values.T, atol=1e-10)
    assert (np.abs(found.values) <= 1 + 1e-12).all()
    other = representation_similarity(network, nano("resnet", 1), batches)
    assert other.values.shape == (len(found.first), len(other.second))
    transposed = representation_similarity(nano("resnet", 1), network, batches)
    np.testing.assert_allclose(other.values, transposed.values.T, atol=1e-6)


def test_the_last_row_is_that_of_the_features() -> None:
    batches = batched(numbers(24, 1, 16, 16).float(), 8)
    first, second = nano("vit", 0), nano("resnet", 0)
    layers = representation_similarity(first, second, batches)
    networks = feature_similarity({"vit": first, "resnet": second}, batches)
    assert layers.values[layers.first.index("features"), layers.second.index("features")] == pytest.approx(
        networks.values[0, 1], abs=1e-6
    )


def test_readings_are_those_of_one_name_and_tell_what_is_undefined() -> None:
    values = np.array([[1.0, 0.5, 0.25], [0.4, 0.9, 0.1]])
    probed = Similarity(("b", "a"), ("a", "b", "c"), values, ("first: c",), 12).probed()
    assert [(one.layer, one.depth, one.value, one.num_images) for one in probed.readings[:-1]] == [
        ("b", 0, 0.5, 12),
        ("a", 1, 0.4, 12),
    ]
    assert (probed.readings[-1].quantity, probed.readings[-1].value) == ("undefined_similarities", 1)
    assert probed.arrays["representation_similarity"].dtype == np.float32


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4])
def test_constant_features_are_told(constant: float) -> None:
    images = numbers(16, 1, 1, 5)
    networks: dict[str, nn.Module] = {
        "same": Shows(lambda x: torch.full_like(x, constant) * (1 + 1e-7 * x), 5),
        "equally far": Shows(lambda x: torch.eye(len(x), 9, dtype=torch.float64), 9),
        "small": Shows(lambda x: 1e-20 * x, 5),
    }
    found = feature_similarity(networks, batched(images, 8))
    assert found.first == found.second == ("small",)
    assert found.undefined == tuple(f"{side}: {name}" for side in ("first", "second") for name in list(networks)[:2])
    del networks["small"]
    with pytest.raises(ProbeError, match="tells images apart"):
        feature_similarity(networks, batched(images, 8))


def test_what_cannot_be_compared_is_told() -> None:
    images = numbers(8, 1, 1, 5)
    diverged = {"gone": Shows(lambda x: x / 0, 5)}
    with pytest.raises(ProbeError, match="'gone' is not finite"):
        feature_similarity(diverged, batched(images, 8))
    with pytest.raises(ProbeError, match="'flat' has no features"):
        feature_similarity({"flat": nn.Flatten()}, batched(images, 8))
    with pytest.raises(ValueError, match="networks is empty"):
        feature_similarity({}, batched(images, 8))
