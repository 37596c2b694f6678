"""What a network ends in: found by name, of two kinds, and read by its features."""

from typing import Any

import pytest
import torch
from torch import nn

from models import FAMILIES, ImageClassifier, build_lanes, build_network, classifier_name, features, forward_flops
from models.counter import count_forward_flops, on_meta_device
from models.head import HiddenHead, clear_classifier, give_hidden_head

SMALLEST: dict[str, Any] = {"image_size": 16, "in_channels": 1, "num_classes": 5}
OUTSIDE = {"timm:test_vit": "head", "timm:test_resnet": "fc", "timm:test_convnext": "head.fc"}


def network_of(family: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_network(family, "nano", **(SMALLEST | changes))


def with_random_classifier(network: nn.Module) -> nn.Module:
    classifier = network.get_submodule(classifier_name(network))
    for parameter in classifier.parameters():
        nn.init.normal_(parameter)
    return network


@pytest.mark.parametrize("head", ["linear", "hidden"])
def test_the_classifier_of_every_family_is_found(head: str) -> None:
    names = {family: classifier_name(network_of(family, head=head)) for family in FAMILIES}
    assert names == {family: "head.fc" if family == "lstm" else "head" for family in FAMILIES}


@pytest.mark.parametrize(("family", "name"), OUTSIDE.items())
def test_the_classifier_of_a_timm_model_is_found(family: str, name: str) -> None:
    with torch.device("meta"):
        network = build_network(family, "", image_size=160, in_channels=3, num_classes=5)
    assert classifier_name(network) == name


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_what_the_classifier_reads(family: str) -> None:
    for head in ("linear", "hidden"):
        network = with_random_classifier(network_of(family, head=head))
        images = torch.randn(3, 1, 16, 16)
        found = features(network, images)
        assert found.shape == (3, 32)
        classifier = network.get_submodule(classifier_name(network))
        with torch.inference_mode():
            assert torch.equal(classifier(found), network.eval()(images))


def test_features_do_not_depend_on_the_head() -> None:
    linear, hidden = network_of("vit"), network_of("vit", head="hidden")
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(features(linear, images), features(hidden, images))


def test_features_are_those_of_evaluation_and_leave_the_network_as_it_is() -> None:
    network = network_of("resnet")
    network.stages.eval()  # type: ignore[union-attr, operator]  # frozen by its user
    network.stages.stem.train()  # type: ignore[union-attr, operator]
    modes = {name: module.training for name, module in network.named_modules()}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first, again = (features(network, torch.ones(2, 1, 16, 16)) for _ in range(2))
    assert torch.equal(first, again)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Odd(nn.Module):
    """A network whose last linear layer does not give its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(images.flatten(1)) / 2
        return logits


def test_what_is_no_classifier_is_refused() -> None:
    with pytest.raises(ValueError, match="'head' of Odd is not its classifier"):
        features(Odd(), torch.ones(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"classifier of Flatten cannot be found.*named head, classifier or fc"):
        classifier_name(nn.Flatten())
    with pytest.raises(ValueError, match="is a Conv2d without a linear layer"):
        classifier_name(nn.Sequential(nn.Conv2d(1, 1, 1)))
    with pytest.raises(ValueError, match="already ends in a HiddenHead"):
        give_hidden_head(network_of("mlp", head="hidden"))
    with pytest.raises(ValueError, match="head='deep': expected linear or hidden"):
        network_of("mlp", head="deep")
    with pytest.raises(ValueError, match="head='deep': expected linear or hidden"):
        forward_flops("mlp", "nano", head="deep", **SMALLEST)  # type: ignore[arg-type]


def test_a_hidden_head_is_a_tanh_layer_before_a_linear_one() -> None:
    head = HiddenHead(6, 3)
    inputs = torch.randn(4, 6)
    assert torch.equal(head(inputs), torch.zeros(4, 3))
    assert not head.hidden.bias.any()
    nn.init.normal_(head.linear.weight)
    expected = torch.tanh(inputs @ head.hidden.weight.T) @ head.linear.weight.T
    assert torch.allclose(head(inputs), expected, atol=1e-6)
    wide = HiddenHead(400, 2).hidden.weight
    assert float(wide.detach().var()) == pytest.approx(1 / 400, rel=0.02)  # LeCun: the features keep their variance


def test_a_hidden_head_changes_nothing_before_it() -> None:
    linear, hidden = (network_of("resnet", head=head).state_dict() for head in ("linear", "hidden"))
    shared = [name for name in linear if not name.startswith("head.")]
    assert all(torch.equal(linear[name], hidden[name]) for name in shared)
    assert set(hidden) - set(shared) == {f"head.{layer}.{part}" for layer in ("hidden", "linear") for part in
                                         ("weight", "bias")}  # fmt: skip


@pytest.mark.parametrize("family", ["vit", "resnet", "mlp"])
def test_flops_of_a_hidden_head_are_counted(family: str) -> None:
    images = SMALLEST | {"num_classes": 7}
    linear, hidden = (forward_flops(family, "nano", head=head, **images) for head in ("linear", "hidden"))
    assert hidden.total - linear.total == 2 * 32 * 32
    assert hidden.first_layer == linear.first_layer
    with on_meta_device():
        network = build_network(family, "nano", head="hidden", **images)
    assert count_forward_flops(network, (2, 1, 16, 16)) == hidden.total


def test_a_timm_model_may_have_a_hidden_head() -> None:
    images: dict[str, Any] = {"image_size": 32, "in_channels": 3, "num_classes": 4}
    linear, hidden = (forward_flops("timm:test_resnet", "", head=head, **images) for head in ("linear", "hidden"))
    with torch.device("meta"):
        width = build_network("timm:test_resnet", "", **images).num_features
    assert hidden.total - linear.total == 2 * width**2  # type: ignore[operator]


def test_clearing_the_classifier_leaves_a_hidden_layer() -> None:
    network = with_random_classifier(network_of("lstm", head="hidden"))
    clear_classifier(network)
    assert not network(torch.randn(2, 1, 16, 16)).any()
    assert network.get_submodule("head.fc").hidden.weight.any()  # type: ignore[union-attr, operator]


def test_the_head_is_a_hyperparameter_of_the_classifier() -> None:
    classifier = ImageClassifier("mlp", "nano", head="hidden", **SMALLEST)
    assert isinstance(classifier.network.head, HiddenHead)
    assert classifier.hparams["head"] == "hidden"


def test_networks_with_hidden_heads_train_in_stacked_lanes() -> None:
    networks = [with_random_classifier(network_of("vit", head="hidden")) for _ in range(2)]
    nn.init.normal_(networks[1].head.hidden.weight)  # type: ignore[union-attr, arg-type]
    lanes = build_lanes(networks)
    images = torch.randn(2, 3, 1, 16, 16)
    assert lanes.kind == "stacked"
    expected = torch.stack([network(batch) for network, batch in zip(networks, images, strict=True)])
    assert torch.allclose(lanes(images), expected, atol=1e-5)
    assert not torch.allclose(expected[0], expected[1])
