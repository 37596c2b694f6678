"""One network at two image sizes."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from models import FAMILIES, ImageClassifier, build_network, features, forward_flops, resize_state
from models.counter import count_forward_flops, on_meta_device
from models.families import Family
from models.mlp import FAMILY as MLP_FAMILY

DESIGNED: dict[str, Any] = {"in_channels": 1, "num_classes": 3, "designed_for": 16}
RESIZABLE = ["vit", "vit nopos", "resnet", "resnet circular", "hybrid", "hybrid gn", "lstm", "lstm raster"]


def split(name: str) -> tuple[str, str]:
    family, _, form = name.partition(" ")
    return family, f"nano-{form}" if form else "nano"


def at_both_sizes(name: str) -> tuple[nn.Module, nn.Module]:
    """A network designed for 16 px with random weights, and the same one for 32 px."""
    family, variant = split(name)
    torch.manual_seed(0)
    small = build_network(family, variant, image_size=16, **DESIGNED)
    for parameter in small.parameters():
        nn.init.normal_(parameter, std=0.1)
    large = build_network(family, variant, image_size=32, **DESIGNED)
    sizes = {"designed_for": 16, "old_size": 16, "new_size": 32, "in_channels": 1}
    large.load_state_dict(resize_state(family, variant, small.state_dict(), **sizes))
    return small, large


@pytest.mark.parametrize("name", RESIZABLE)
def test_only_positions_have_another_shape(name: str) -> None:
    small, large = ({key: tensor.shape for key, tensor in one.state_dict().items()} for one in at_both_sizes(name))
    assert small.keys() == large.keys()
    odd = [key for key in small if small[key] != large[key]]
    assert odd == (["pos_embed"] if name in ("vit", "hybrid", "hybrid gn") else [])


@pytest.mark.parametrize("name", ["resnet circular", "vit nopos"])
def test_an_image_laid_out_four_times_has_the_features_of_the_image(name: str) -> None:
    """Neither circular convolutions with a mean over the map nor attention without positions can tell the two apart."""
    small, large = (one.double() for one in at_both_sizes(name))
    images = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    assert torch.allclose(features(small, images), features(large, images.tile(2, 2)), atol=1e-12)


@pytest.mark.parametrize("name", ["vit", "resnet", "hybrid", "lstm"])
def test_arithmetic_equals_the_counter_at_the_other_size(name: str) -> None:
    family, variant = split(name)
    with on_meta_device():
        network = build_network(family, variant, image_size=32, **DESIGNED)
    expected = forward_flops(family, variant, image_size=32, **DESIGNED).total
    assert count_forward_flops(network, (2, 1, 32, 32)) == expected
    assert expected > 3 * forward_flops(family, variant, image_size=16, **DESIGNED).total


@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_it_is_designed_for_is_the_network_itself(family: str) -> None:
    for designed_for in (16, None):
        torch.manual_seed(0)
        images = {"image_size": 16, "in_channels": 1, "num_classes": 3}
        network = build_network(family, "nano", **images, designed_for=designed_for)  # type: ignore[arg-type]
        assert forward_flops(family, "nano", **images, designed_for=designed_for) == forward_flops(  # type: ignore[arg-type]
            family, "nano", image_size=16, in_channels=1, num_classes=3
        )
        state = network.state_dict()
        same = resize_state(family, "nano", state, designed_for=16, old_size=16, new_size=16, in_channels=1)
        assert same.keys() == state.keys()
        assert all(torch.equal(same[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("family", "variant", "reason"),
    [
        ("mixer", "nano", "token-mixing weights belong to the 16 patches of 16 px"),
        ("lstm", "nano-shuffled", "its order belongs to the 16 patches of 16 px"),
        ("mlp", "nano", "first layer has a weight for every pixel of 16 x 16"),
        ("vit", "nano-sin1d", "counted along the raster, and the same number is another place"),
    ],
)
def test_families_that_cannot_change_size_say_why(family: str, variant: str, reason: str) -> None:
    message = f"family '{family}', variant '{variant}', designed for 16 px, cannot be applied to 32 px: .*{reason}"
    for ask in (build_network, forward_flops):
        with pytest.raises(ValueError, match=message):
            ask(family, variant, image_size=32, **DESIGNED)
    with pytest.raises(ValueError, match=message):
        resize_state(family, variant, {}, designed_for=16, old_size=16, new_size=32, in_channels=1)


@pytest.mark.parametrize("family", ["vit", "lstm"])
def test_images_of_broken_patches_are_refused(family: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be applied to 18 px: .*patches.*4 px"):
        forward_flops(family, "nano", image_size=18, **DESIGNED)


def test_sizes_that_no_tier_is_for_can_be_reached_from_one_that_is() -> None:
    network = build_network("vit", "nano", image_size=48, **DESIGNED)
    assert network(torch.zeros(1, 1, 48, 48)).shape == (1, 3)
    with pytest.raises(ValueError, match="does not suit the tier 'nano'"):
        build_network("vit", "nano", image_size=48, in_channels=1, num_classes=3)
    with pytest.raises(ValueError, match="designed_for=0: expected at least 1"):
        build_network("vit", "nano", **(DESIGNED | {"image_size": 48, "designed_for": 0}))


def test_a_layout_from_elsewhere_may_know_no_other_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed:
        def forward_flops(self, num_classes: int) -> None: ...

    family = Family("fixed", "Fixed", "None.", lambda *_: Fixed(), MLP_FAMILY.build)
    monkeypatch.setattr("models.registry.FAMILIES", {"fixed": family})
    with pytest.raises(ValueError, match=r"its layout has no method at\(image_size\)"):
        forward_flops("fixed", "nano", image_size=32, **DESIGNED)


def test_a_timm_model_is_resized_where_its_weights_allow() -> None:
    images: dict[str, Any] = {"in_channels": 3, "num_classes": 3, "designed_for": 160}
    with on_meta_device():
        for name in ("timm:test_vit", "timm:test_resnet"):
            assert build_network(name, "", image_size=96, **images)(torch.empty(2, 3, 96, 96)).shape == (2, 3)
        with pytest.raises(ValueError, match=r"mlp_tokens.*resize the images instead"):
            build_network("timm:mixer_s32_224", "", image_size=64, **(images | {"designed_for": 224}))


@pytest.fixture
def outside_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("outside_networks")

    def dense(variant: str, image_size: int, in_channels: int, num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

    def pooled(variant: str, image_size: int, in_channels: int, num_classes: int) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * in_channels, num_classes))

    module.dense, module.pooled = dense, pooled  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "outside_networks", module)
    return module


def test_a_users_network_is_resized_where_its_weights_allow(outside_module: types.ModuleType) -> None:
    assert forward_flops("outside_networks:pooled", "", image_size=32, **DESIGNED).total == 2 * 4 * 3
    message = r"its 1.weight is \[3, 256\] at 16 px and \[3, 1024\] at 32 px; resize the images instead"
    with pytest.raises(ValueError, match=message):
        build_network("outside_networks:dense", "", image_size=32, **DESIGNED)


def test_the_classifier_remembers_what_it_was_designed_for(tmp_path: Path) -> None:
    classifier = ImageClassifier("vit", "nano", image_size=32, **DESIGNED)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.strategy.connect(classifier)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert loaded.hparams["designed_for"] == 16
    assert loaded.network.pos_embed.shape == (1, 64, 32)  # type: ignore[union-attr]
