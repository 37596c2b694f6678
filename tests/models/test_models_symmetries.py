"""Exact symmetries: what an architecture cannot tell apart, trained or not."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.convolution import ConvStages
from models.optimizer import build_optimizer
from models.registry import build_network
from models.resnet import ResNetLayout, build_resnet
from models.scan import scan_order

IMAGE_SIZE, PATCH_SIZE, NUM_CLASSES, NUM_STEPS = 16, 4, 3, 60
GRID_SIZE = IMAGE_SIZE // PATCH_SIZE


def new_network(family: str, variant: str = "nano") -> nn.Module:
    torch.manual_seed(0)
    images = {"image_size": IMAGE_SIZE, "in_channels": 1, "num_classes": NUM_CLASSES}
    return build_network(family, variant, **images).double()


def training_trace(
    network: nn.Module, transform: Callable[[torch.Tensor], torch.Tensor], num_steps: int = NUM_STEPS
) -> torch.Tensor:
    """Losses ``[num_steps]`` of AdamW steps on transformed random images that fit no pattern."""
    generator = torch.Generator().manual_seed(1)
    optimizer = build_optimizer(network, learning_rate=1e-3, weight_decay=0.05)
    losses = []
    for _ in range(num_steps):
        images = torch.randn(16, 1, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64)
        labels = torch.randint(NUM_CLASSES, (16,), generator=generator)
        loss = F.cross_entropy(network(transform(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def assert_same_training(
    plain: nn.Module, changed: nn.Module, transform: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """``changed`` on transformed images trains as ``plain`` does on plain ones."""
    expected = training_trace(plain, lambda images: images)
    trace = training_trace(changed, transform)
    assert expected.std() > 1e-4, "nothing was learnt: the comparison would hold for any two networks"
    torch.testing.assert_close(trace, expected, rtol=0, atol=1e-12)


def permutation(size: int) -> torch.Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(2))


def patches_of(images: torch.Tensor) -> torch.Tensor:
    """``[B, 1, 16, 16]`` -> ``[B, 16 patches, 16 pixels]``."""
    return F.unfold(images, PATCH_SIZE, stride=PATCH_SIZE).transpose(1, 2)


def images_of(patches: torch.Tensor) -> torch.Tensor:
    return F.fold(patches.transpose(1, 2), IMAGE_SIZE, PATCH_SIZE, stride=PATCH_SIZE)


def permute_patches(images: torch.Tensor) -> torch.Tensor:
    return images_of(patches_of(images)[:, permutation(GRID_SIZE**2)])


def permute_within_patches(images: torch.Tensor) -> torch.Tensor:
    return images_of(patches_of(images)[:, :, permutation(PATCH_SIZE**2)])


def permute_pixels(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)[:, permutation(IMAGE_SIZE**2)].view_as(images)


def test_vit_cannot_tell_patch_order_from_its_position_embedding() -> None:
    changed = new_network("vit")
    with torch.no_grad():
        changed.pos_embed.copy_(changed.pos_embed[:, permutation(GRID_SIZE**2)])  # type: ignore[operator, index]
    assert_same_training(new_network("vit"), changed, permute_patches)


@pytest.mark.parametrize("family", ["vit", "mixer"])
def test_patch_projection_absorbs_a_shared_permutation_of_pixels_within_patches(family: str) -> None:
    changed = new_network(family)
    projection: torch.Tensor = (changed.patch_embed if family == "vit" else changed.stem).proj.weight  # type: ignore
    with torch.no_grad():
        permuted = projection.flatten(1)[:, permutation(PATCH_SIZE**2)]
        projection.copy_(permuted.view_as(projection))
    assert_same_training(new_network(family), changed, permute_within_patches)


def test_fully_connected_net_cannot_tell_any_order_of_pixels() -> None:
    changed = new_network("mlp")
    weight: torch.Tensor = changed.layer1.linear.weight  # type: ignore[union-attr, assignment]
    with torch.no_grad():
        weight.copy_(weight[:, permutation(IMAGE_SIZE**2)])
    assert_same_training(new_network("mlp"), changed, permute_pixels)


def test_vit_without_position_embedding_trains_alike_on_any_order_of_patches() -> None:
    assert_same_training(new_network("vit", "nano-nopos"), new_network("vit", "nano-nopos"), permute_patches)


@pytest.mark.parametrize("order", ["column", "snake", "shuffled"])
def test_a_scan_in_another_order_is_a_raster_scan_of_permuted_patches(order: str) -> None:
    """So that permuted patches are the control of every scan: to one LSTM, an order is as good as another."""
    reading = list(scan_order(order, GRID_SIZE, GRID_SIZE))
    scanning, raster = new_network("lstm", f"nano-{order}"), new_network("lstm", "nano-raster")
    assert_same_training(scanning, raster, lambda images: images_of(patches_of(images)[:, reading]))


@pytest.mark.parametrize(
    ("family", "variant", "transform"),
    [
        ("vit", "nano", permute_patches),
        ("mixer", "nano", permute_patches),
        ("lstm", "nano", permute_patches),
        ("lstm", "nano-raster", permute_patches),
        ("resnet", "nano", permute_within_patches),
        ("hybrid", "nano", permute_within_patches),
        ("mlp", "nano", permute_pixels),
    ],
)
def test_other_networks_do_notice(family: str, variant: str, transform: Callable[[torch.Tensor], torch.Tensor]) -> None:
    plain = training_trace(new_network(family, variant), lambda images: images, num_steps=8)
    assert (training_trace(new_network(family, variant), transform, num_steps=8) - plain).abs().max() > 1e-6


def random_resnet(*, circular: bool, strides: tuple[int, ...]) -> nn.Module:
    """A ResNet in which every parameter is random, so that no branch is silenced by a zero."""
    stages = ConvStages(IMAGE_SIZE, 1, 5, (5, 8, 12), (1, 1, 1), strides, circular=circular)
    network = build_resnet(ResNetLayout(stages), NUM_CLASSES).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def roll_change(network: nn.Module, shift: int) -> float:
    """Largest relative change of a logit when images are rolled by ``shift`` pixels along both sides."""
    images = torch.randn(4, 1, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        plain, rolled = network(images), network(images.roll((shift, shift), dims=(2, 3)))
    return float((rolled - plain).abs().max() / plain.abs().max())


@pytest.mark.parametrize("training", [True, False])
def test_circular_stride_1_net_is_invariant_to_every_roll(training: bool) -> None:
    network = random_resnet(circular=True, strides=(1, 1, 1)).train(training)
    assert max(roll_change(network, shift) for shift in (1, 2, 5)) < 1e-12


def test_circular_strided_net_is_invariant_to_rolls_by_its_total_stride() -> None:
    network = random_resnet(circular=True, strides=(1, 2, 2)).eval()
    assert roll_change(network, 4) < 1e-12
    assert roll_change(network, 1) > 1e-3


def test_zero_padded_net_is_not_invariant_to_rolls() -> None:
    assert roll_change(random_resnet(circular=False, strides=(1, 1, 1)).eval(), 1) > 1e-3


def test_circular_max_pooling_stem_rolls_too() -> None:
    stages = ConvStages(32, 1, 5, (5,), (1,), (1,), reducing_stem=True, circular=True)
    network = build_resnet(ResNetLayout(stages), NUM_CLASSES).double().eval()
    nn.init.normal_(network.head.weight)  # type: ignore[union-attr, arg-type]
    images = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(images.roll((4, 8), (2, 3))), network(images), rtol=0, atol=1e-12)


def test_resizing_a_position_embedding_to_its_own_grid_is_the_identity() -> None:
    network = new_network("vit")
    embedding = network.pos_embed.detach().clone()
    network.set_input_size(img_size=IMAGE_SIZE)
    assert torch.equal(network.pos_embed, embedding)
    network.set_input_size(img_size=2 * IMAGE_SIZE)
    assert network.pos_embed.shape[1] == 4 * embedding.shape[1]
