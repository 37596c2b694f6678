"""Weights of another training as the start of a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from models import (
    FAMILIES,
    ImageClassifier,
    MisfitError,
    Origin,
    WeightsError,
    build_network,
    classifier_checkpoint,
    classifier_name,
    features,
    fit_weights,
    load_start,
    read_weights,
)

IMAGES: dict[str, Any] = {"image_size": 16, "in_channels": 1}


def pretrained(family: str, variant: str = "nano", **changes: Any) -> nn.Module:
    """A network of 4 classes whose every weight is random."""
    torch.manual_seed(1)
    network = build_network(family, variant, **(IMAGES | {"num_classes": 4} | changes))
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) if "running_var" in name else 0.1 * torch.randn(tensor.shape))
    return network


def kept(network: nn.Module, path: Path, family: str, variant: str = "nano", **changes: Any) -> Path:
    settings = IMAGES | {"num_classes": 4} | changes
    torch.save(classifier_checkpoint(network.state_dict(), family=family, variant=variant, **settings), path)
    return path


def fresh(family: str, variant: str = "nano", **changes: Any) -> nn.Module:
    torch.manual_seed(2)
    return build_network(family, variant, **(IMAGES | {"num_classes": 3} | changes))


# --- weights of this package -----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "hidden"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_start_has_the_features_of_the_training_before_it_and_no_opinion(
    tmp_path: Path, family: str, head: str
) -> None:
    before = pretrained(family, head=head)
    path = kept(before, tmp_path / "kept.pt", family, head=head)
    network = fresh(family)
    nn.init.normal_(network.get_submodule(classifier_name(network)).weight)  # type: ignore[arg-type]
    start = load_start(path, network, family=family, variant="nano", **IMAGES)
    images = torch.randn(3, 1, 16, 16)
    assert torch.equal(features(network, images), features(before, images))
    assert torch.equal(network(images), torch.zeros(3, 3))
    prefix = classifier_name(before)
    assert start.dropped == tuple(sorted(name for name in before.state_dict() if name.startswith(f"{prefix}.")))
    assert (start.resized, start.origin) == ((), Origin(family, "nano", 16, 1, 16))


@pytest.mark.parametrize("family", ["vit", "hybrid", "resnet", "lstm"])
def test_a_start_at_twice_the_resolution(tmp_path: Path, family: str) -> None:
    path = kept(pretrained(family), tmp_path / "kept.pt", family)
    network = fresh(family, image_size=32, designed_for=16)
    start = load_start(path, network, family=family, variant="nano", image_size=32, in_channels=1, designed_for=16)
    assert start.resized == (("pos_embed",) if family in ("vit", "hybrid") else ())
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 3)
    again = kept(network, tmp_path / "again.pt", family, image_size=32, designed_for=16, num_classes=3)
    back = fresh(family)  # a network fine-tuned at 32 px is a start at 16 px too
    assert load_start(again, back, family=family, variant="nano", **IMAGES).origin == Origin(family, "nano", 32, 1, 16)


def test_weights_without_a_classifier_are_a_start(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in pretrained("vit").state_dict().items() if not name.startswith("head.")}
    torch.save(
        classifier_checkpoint(state, family="vit", variant="nano", num_classes=8, **IMAGES), tmp_path / "kept.pt"
    )
    assert load_start(tmp_path / "kept.pt", fresh("vit"), family="vit", variant="nano", **IMAGES).dropped == ()


def test_an_image_classifier_starts_from_another(tmp_path: Path) -> None:
    before = pretrained("vit")
    path = kept(before, tmp_path / "kept.ckpt", "vit")
    classifier = ImageClassifier("vit", "nano", num_classes=3, **IMAGES)
    start = classifier.start_from(path)
    assert torch.equal(classifier.network.pos_embed, before.pos_embed)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="the one asked for is ffff"):
        classifier.start_from(path, sha256="f" * 64)
    assert classifier.start_from(path, sha256=start.sha256) == start


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "hybrid"}, "family is 'vit', not 'hybrid'"),
        ({"variant": "nano-nopos"}, "variant is 'nano', not 'nano-nopos'"),
        ({"in_channels": 3}, "in_channels is 1, not 3"),
        ({"image_size": 32}, "designed_for is 16, not 32"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = kept(pretrained("vit"), tmp_path / "kept.pt", "vit")
    target: dict[str, Any] = {"family": "vit", "variant": "nano"} | IMAGES | changes
    network = build_network(**target, num_classes=3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError, match=f"holds the weights of vit nano for 1 channels at 16 px.*{message}"):
        load_start(path, network, **target)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_every_missing_unexpected_and_misshapen_tensor_is_named(tmp_path: Path) -> None:
    state = dict(pretrained("mlp").state_dict())
    state["other.weight"] = state.pop("layer1.norm.weight")
    state["layer2.linear.bias"] = state["layer2.linear.bias"][:5]
    state["layer3.linear.bias"] = state["layer3.linear.bias"].long()
    torch.save(
        classifier_checkpoint(state, family="mlp", variant="nano", num_classes=4, **IMAGES), tmp_path / "kept.pt"
    )
    with pytest.raises(MisfitError) as caught:
        load_start(tmp_path / "kept.pt", fresh("mlp"), family="mlp", variant="nano", **IMAGES)
    assert caught.value.missing == ("layer1.norm.weight",)
    assert caught.value.unexpected == ("other.weight",)
    assert caught.value.misshapen == (
        "layer2.linear.bias ([5], expected [501])",
        "layer3.linear.bias ([501] of whole numbers, expected [501])",
    )
    for part in (str(tmp_path / "kept.pt"), "mlp nano", "missing: layer1", "unexpected: other", "layer2.linear.bias"):
        assert part in str(caught.value)


def test_long_lists_are_cut_in_the_message_only() -> None:
    error = MisfitError("file", [f"t{index}" for index in range(25)], [], [])
    assert str(error).endswith("t4 and 20 more")
    assert len(error.missing) == 25


def test_names_in_a_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    state = dict(pretrained("mlp").state_dict()) | {"\x1b[2J\nall is well": torch.zeros(1), "x" * 10**6: torch.zeros(1)}
    settings: dict[str, Any] = IMAGES | {"num_classes": 4, "variant": "nano"}
    torch.save(classifier_checkpoint(state, family="mlp", **settings), tmp_path / "names.pt")
    torch.save(classifier_checkpoint(state, family="\x1b[31m" + "y" * 10**6, **settings), tmp_path / "family.pt")
    torch.save({"\x1b[2J\nodd" + "x" * 10**6: torch.tensor(torch.nan)}, tmp_path / "nan.pt")
    for name in ("names.pt", "family.pt", "nan.pt"):
        with pytest.raises(WeightsError, match=r"\\x1b\[") as caught:
            load_start(tmp_path / name, fresh("mlp"), family="mlp", variant="nano", **IMAGES)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600 + len(str(tmp_path))


def test_numbers_too_large_for_the_network_are_refused_before_it_is_changed(tmp_path: Path) -> None:
    state = {name: tensor.double() * 1e200 for name, tensor in pretrained("mlp").state_dict().items()}
    path = tmp_path / "double.pt"
    torch.save(classifier_checkpoint(state, family="mlp", variant="nano", num_classes=4, **IMAGES), path)
    network = fresh("mlp")
    with pytest.raises(
        WeightsError, match=r"double\.pt: layer1\.\S+ holds numbers that are not finite as torch.float32"
    ):
        load_start(path, network, family="mlp", variant="nano", **IMAGES)
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


@pytest.mark.parametrize("image_size", [18, 16 * 10**4])
def test_an_image_size_that_the_weights_cannot_have_is_refused_with_file_and_field(
    tmp_path: Path, image_size: int
) -> None:
    path = kept(pretrained("vit"), tmp_path / "kept.pt", "vit", image_size=image_size, designed_for=16)
    with pytest.raises(
        WeightsError, match=rf"kept\.pt: its hyper_parameters\.image_size is {image_size}, and .*16 px: "
    ):
        load_start(path, fresh("vit"), family="vit", variant="nano", **IMAGES)


def test_weights_can_be_held_against_a_network_without_storage(tmp_path: Path) -> None:
    weights = read_weights(kept(pretrained("vit"), tmp_path / "kept.pt", "vit"))
    with torch.device("meta"):
        network = build_network("vit", "nano", image_size=32, in_channels=1, num_classes=3, designed_for=16)
    state, start = fit_weights(weights, network, Origin("vit", "nano", 32, 1, 16))
    assert state["pos_embed"].shape == (1, 64, 32)
    assert state["pos_embed"].device.type == "cpu"
    assert start.resized == ("pos_embed",)


def test_a_file_far_larger_than_the_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.start._LARGEST_REST", 1000)
    torch.save({"weight": torch.zeros(2_000_000)}, tmp_path / "large.pt")
    with pytest.raises(WeightsError, match="weights of this network could need"):
        load_start(tmp_path / "large.pt", fresh("vit"), family="vit", variant="nano", **IMAGES)


# --- weights of timm -------------------------------------------------------------------------------------------

PHOTOS: dict[str, Any] = {"image_size": 160, "in_channels": 3}


def timm_file(name: str, path: Path, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    network = timm.create_model(name, **options)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    return state


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_a_timm_checkpoint_is_a_start(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = timm_file(name, path)
    network = build_network(f"timm:{name}", "", **PHOTOS, num_classes=5)
    start = load_start(path, network, family=f"timm:{name}", variant="", **PHOTOS)
    head = classifier_name(network)
    assert start.dropped == (f"{head}.bias", f"{head}.weight")
    found = network.state_dict()
    assert all(torch.equal(tensor, found[key]) for key, tensor in state.items() if key not in start.dropped)
    assert not network.get_submodule(head).weight.any()  # type: ignore[union-attr, operator]


def test_a_timm_checkpoint_at_another_resolution_and_in_grey(tmp_path: Path) -> None:
    state = timm_file("test_vit", tmp_path / "weights.safetensors")
    images: dict[str, Any] = {"image_size": 96, "in_channels": 1, "designed_for": 160}
    network = build_network("timm:test_vit", "", **images, num_classes=5)
    start = load_start(tmp_path / "weights.safetensors", network, family="timm:test_vit", variant="", **images)
    assert start.resized == ("patch_embed.proj.weight", "pos_embed")
    grey = state["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    assert torch.equal(network.patch_embed.proj.weight, grey)  # type: ignore[union-attr, arg-type]
    tokens = network.num_prefix_tokens
    assert torch.equal(network.pos_embed[:, :tokens], state["pos_embed"][:, :tokens])  # type: ignore[index, misc]


def test_what_this_package_kept_of_a_timm_model_is_a_start_at_another_resolution(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = build_network("timm:test_vit", "", **PHOTOS, num_classes=5)
    path = kept(before, tmp_path / "kept.pt", "timm:test_vit", "", **PHOTOS)
    images: dict[str, Any] = {"image_size": 96, "in_channels": 3, "designed_for": 160}
    network = build_network("timm:test_vit", "", **images, num_classes=3)
    start = load_start(path, network, family="timm:test_vit", variant="", **images)
    assert start.resized == ("pos_embed",)


def test_a_plain_vision_transformer_of_timm_is_a_start_for_the_family(tmp_path: Path) -> None:
    """The family `vit` is timm's vision transformer without a class token."""
    sizes: dict[str, Any] = {"embed_dim": 192, "depth": 4, "num_heads": 3, "patch_size": 8, "img_size": 64}
    plain = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    state = timm_file("vit_tiny_patch16_224", tmp_path / "weights.pth", **sizes, **plain)
    images: dict[str, Any] = {"image_size": 128, "in_channels": 3, "designed_for": 64}
    network = build_network("vit", "tiny", **images, num_classes=5)
    start = load_start(tmp_path / "weights.pth", network, family="vit", variant="tiny", **images)
    assert start.resized == ("pos_embed",)
    assert torch.equal(network.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])  # type: ignore[index, union-attr]
    timm_file("vit_tiny_patch16_224", tmp_path / "token.pth", **sizes)
    with pytest.raises(MisfitError, match="unexpected: cls_token"):
        load_start(tmp_path / "token.pth", network, family="vit", variant="tiny", **images)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    timm_file("test_resnet", tmp_path / "weights.pth")
    for family, network in (("vit", fresh("vit")), ("resnet", fresh("resnet")), ("mixer", fresh("mixer"))):
        with pytest.raises(WeightsError, match=r"missing: .*unexpected: |timm cannot convert them"):
            load_start(tmp_path / "weights.pth", network, family=family, variant="nano", **IMAGES)
