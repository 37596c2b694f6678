"""How lanes are made of networks, which networks refuse, and what a stacked layer computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import timm
import torch
from lane_runs import BRANCHES, IMAGE_SHAPE, NUM_LANES, STACKED, networks, same_bits
from torch import nn
from torch.nn import functional as F

from models import build_network
from models.lanes import build_lanes, why_no_lanes, why_not_stacked
from models.lanes.layers import StackedLayerNorm, StackedLinear, StackedPatchConv
from models.lanes.recurrence import StackedLSTM

# --- which networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "variant"), STACKED)
def test_families_of_known_layers_are_stacked(family: str, variant: str) -> None:
    assert why_not_stacked(networks(family, variant)[0]) is None
    assert why_not_stacked(networks(family, variant)[0], IMAGE_SHAPE) is None


@pytest.mark.parametrize(("family", "variant"), BRANCHES)
def test_convolutional_families_say_which_layer_is_in_the_way(family: str, variant: str) -> None:
    reason = why_not_stacked(networks(family, variant)[0])
    assert reason is not None
    assert "stem.conv" in reason
    with pytest.raises(ValueError, match=r"cannot be stacked: .*stem\.conv.*use kind='branches'"):
        build_lanes(networks(family, variant), "stacked")


class Mixing(nn.Module):
    """Takes the mean of a batch away, which a solo run does over its own images only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.flatten(1)
        return self.linear(rows - rows.mean(dim=0))  # type: ignore[no-any-return]


class Direct(Mixing):
    """Reaches for the weights of its layer."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.linear(images.flatten(1), self.linear.weight)


class Harmless(Mixing):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1))  # type: ignore[no-any-return]


class Twice(Harmless):
    def __init__(self) -> None:
        super().__init__()
        self.again = self.linear


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), "layer '1' (BatchNorm1d) keeps buffers"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), "not a convolution on patches"),
        (nn.Sequential(nn.Conv2d(3, 4, 2, stride=2, groups=1, dilation=2)), "not a convolution on patches"),
        (nn.Sequential(nn.GroupNorm(1, 4)), "owns parameters (weight, bias) of no known stacked form"),
        (nn.Sequential(nn.LSTM(4, 4)), "the batch first"),
        (nn.Sequential(nn.LSTM(4, 4, proj_size=2, batch_first=True)), "without projection"),
        (nn.MultiheadAttention(4, 1), "owns parameters (in_proj_weight, in_proj_bias)"),
        (Harmless(), "Harmless is code from outside"),
        (Twice(), "one parameter in two places"),
    ],
)
def test_what_is_not_known_is_not_stacked(network: nn.Module, said: str) -> None:
    assert said in str(why_not_stacked(network))


def test_code_from_outside_is_judged_by_what_it_does() -> None:
    shape = (1, 2, 2)
    assert why_not_stacked(Harmless(), shape) is None
    assert "does not keep the images of a batch apart" in str(why_not_stacked(Mixing(), shape))
    assert "does not run on stacked layers" in str(why_not_stacked(Direct(), shape))
    assert build_lanes([Harmless(), Harmless()], image_shape=shape).kind == "stacked"
    assert build_lanes([Mixing(), Mixing()], image_shape=shape).kind == "branches"


@pytest.mark.parametrize(
    ("name", "stacked", "said"),
    [
        ("vit_tiny_patch16_224", True, ""),
        ("vit_small_patch16_36x1_224", False, "gamma"),
        ("resnet18", False, "layer 'conv1' (Conv2d)"),
        ("convnext_atto", False, "LayerNorm2d"),
        ("deit3_small_patch16_224", False, "gamma"),
        ("vit_relpos_small_patch16_224", False, "keeps buffers"),
        ("mixer_s32_224", True, ""),
        ("sequencer2d_s", True, ""),
    ],
)
def test_models_of_timm(name: str, stacked: bool, said: str) -> None:
    with torch.device("meta"):
        reason = why_not_stacked(timm.create_model(name))
    assert (reason is None) == stacked, reason
    assert stacked or said in str(reason)


def test_tokens_of_timms_vision_transformer_go_to_their_lane() -> None:
    """Class token, registers and both places of the position embedding, with random values."""
    for options in ({"reg_tokens": 2}, {"reg_tokens": 1, "no_embed_class": True}, {"pos_embed": "none"}):
        nets = []
        for seed in range(2):
            torch.manual_seed(seed)
            net = timm.models.VisionTransformer(
                img_size=8, patch_size=4, num_classes=3, embed_dim=8, depth=1, num_heads=2, **options
            ).double()
            for parameter in net.parameters():
                nn.init.normal_(parameter)
            nets.append(net)
        images = torch.randn(2, 3, 3, 8, 8, dtype=torch.float64)
        expected = torch.stack([net(batch) for net, batch in zip(nets, images, strict=True)])
        torch.testing.assert_close(build_lanes(nets, "stacked")(images), expected, rtol=1e-12, atol=1e-12)


class Coins(nn.Module):
    """Flips a coin for every feature in forward code that no attribute tells of."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.dropout(images.flatten(1), 0.5, self.training)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: timm.create_model("vit_tiny_patch16_224", drop_path_rate=0.11),
            "layer 'blocks.1.drop_path1' (DropPath) draws random numbers in training (drop_prob=0.01)",
        ),
        (lambda: timm.create_model("vit_tiny_patch16_224", attn_drop_rate=0.1), "layer 'blocks.0.attn.attn_drop'"),
        (lambda: timm.create_model("vit_tiny_patch16_224", patch_drop_rate=0.1), "prob=0.1"),
        (lambda: timm.create_model("resnet18", drop_block_rate=0.1), "drop_prob=0.1"),
        (lambda: timm.create_model("efficientnet_b0", drop_rate=0.2), "drop_rate=0.2"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), "layer '1' (Dropout) draws random numbers"),
        (lambda: nn.MultiheadAttention(4, 1, dropout=0.1), "dropout=0.1"),
        (lambda: nn.LSTM(4, 4, 2, dropout=0.1), "dropout=0.1"),
        (lambda: nn.Sequential(nn.RReLU()), "random slopes"),
    ],
)
def test_networks_that_draw_say_where(build: Callable[[], nn.Module], said: str) -> None:
    with torch.device("meta"):
        assert said in str(why_no_lanes(build()))


@pytest.mark.parametrize(("family", "variant"), [*STACKED, *BRANCHES])
def test_families_draw_nothing(family: str, variant: str) -> None:
    state = torch.get_rng_state()
    network = networks(family, variant)[0]
    before = torch.get_rng_state()
    assert why_no_lanes(network) is None
    assert why_no_lanes(network, IMAGE_SHAPE) is None
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(state)


def test_hidden_draws_are_seen_when_the_network_is_run() -> None:
    network = nn.Sequential(Coins(), nn.Linear(4, 2)).eval()
    before = torch.get_rng_state()
    assert why_no_lanes(network) is None
    assert "seen by running it" in str(why_no_lanes(network, (1, 2, 2)))
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training


def test_networks_of_two_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lane 1 is of another architecture than lane 0: they differ in 'layer1"):
        build_lanes([networks("mlp")[0], networks("vit")[0]])
    with pytest.raises(ValueError, match=r"lane 1 .* layers have other settings"):
        build_lanes([nn.Sequential(nn.LayerNorm(4)), nn.Sequential(nn.LayerNorm(4, eps=0.1))])
    with pytest.raises(ValueError, match="no network given"):
        build_lanes([])


# --- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stacked", "branches"])
@pytest.mark.parametrize("family", ["vit", "lstm", "mlp", "resnet"])
def test_a_lane_is_a_solo_state_and_back(family: str, kind: str) -> None:
    if (family, kind) == ("resnet", "stacked"):
        pytest.skip("it has no stacked form")
    nets = networks(family)
    lanes = build_lanes(nets, kind)  # type: ignore[arg-type]
    for lane, net in enumerate(nets):
        assert same_bits(lanes.lane_state(lane), net.state_dict())
    places = [parameter.data_ptr() for parameter in lanes.parameters()]
    lanes.load_lane(0, nets[2].state_dict())
    assert [parameter.data_ptr() for parameter in lanes.parameters()] == places  # a captured graph stays valid
    for lane, net in enumerate([nets[2], nets[1], nets[2]]):
        assert same_bits(lanes.lane_state(lane), net.state_dict())
    kept = lanes.lane_state(0)
    lanes.load_lane(0, nets[1].state_dict())
    assert same_bits(kept, nets[2].state_dict())  # a copy, not a view
    assert lanes.solo.state_dict().keys() == nets[0].state_dict().keys()
    assert all(tensor.is_meta for tensor in lanes.solo.state_dict().values())


def test_states_of_other_networks_are_refused() -> None:
    lanes = build_lanes(networks("vit"))
    with pytest.raises(ValueError, match=r"lane 1: the state is of another architecture: blocks.0.attn"):
        lanes.load_lane(1, networks("mlp")[0].state_dict())
    wide = build_network("vit", "nano", image_size=16, in_channels=3, num_classes=9)
    with pytest.raises(ValueError, match=r"lane 1: head.weight has shape \[9, 32\], expected \[4, 32\]"):
        lanes.load_lane(1, wide.state_dict())


@pytest.mark.parametrize(("family", "kind"), [("vit", "stacked"), ("lstm", "stacked"), ("mixer", "branches")])
def test_a_lanes_loss_gives_gradients_to_that_lane_only(family: str, kind: str) -> None:
    lanes = build_lanes(networks(family), kind)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in lanes.parameters():
            parameter.add_(0.1)  # the classifier no longer hides what lies before it
    lanes(torch.randn(NUM_LANES, 4, *IMAGE_SHAPE))[1].square().sum().backward()
    for name, lane, parameter in lanes.trained():
        if lane is None:
            assert parameter.grad is not None
            assert not parameter.grad[0].any(), name
            assert not parameter.grad[2].any(), name
            assert parameter.grad[1].any(), name
        else:
            assert (parameter.grad is not None and bool(parameter.grad.any())) == (lane == 1), name


# --- stacked layers --------------------------------------------------------------------------------------------------


def against_solo(
    layers: Sequence[nn.Module], stacked: nn.Module, inputs: torch.Tensor, take: Callable[[Any], torch.Tensor]
) -> dict[str, bool]:
    """Outputs, input gradients and weight gradients of a stacked layer and its solo layers: close, and bitwise or not.

    Args:
        inputs: of all lanes, ``[L * B, ...]``.
        take: the output out of what a layer gives.
    """
    ours, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    output = take(stacked(ours))
    expected = torch.cat([take(layer(part)) for layer, part in zip(layers, theirs.chunk(len(layers)), strict=True)])
    gradient = torch.randn_like(expected)
    output.backward(gradient)
    expected.backward(gradient)
    pairs = {"output": (output, expected), "input": (ours.grad, theirs.grad)}
    for name, parameter in stacked.named_parameters():
        pairs[name] = (parameter.grad, torch.stack([dict(layer.named_parameters())[name].grad for layer in layers]))
    for found, wanted in pairs.values():
        assert found is not None
        assert wanted is not None
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    return {name: torch.equal(found, wanted) for name, (found, wanted) in pairs.items()}  # type: ignore[arg-type]


def shuffled(layers: Sequence[nn.Module]) -> Sequence[nn.Module]:
    generator = torch.Generator().manual_seed(0)
    for parameter in (parameter for layer in layers for parameter in layer.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return layers


@pytest.mark.parametrize("bias", [True, False])
def test_stacked_linear_is_the_solo_layer_bit_by_bit(bias: bool) -> None:
    layers = shuffled([nn.Linear(32, 24, bias=bias) for _ in range(3)])
    same = against_solo(layers, StackedLinear(layers), torch.randn(12, 7, 32), lambda output: output)
    assert set(same.values()) == {True}


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"elementwise_affine": False}])
def test_stacked_layer_norm_gives_the_solo_outputs_bit_by_bit(options: dict[str, bool]) -> None:
    layers: Any = shuffled([nn.LayerNorm(32, eps=1e-3, **options) for _ in range(3)])
    same = against_solo(layers, StackedLayerNorm(layers), torch.randn(12, 7, 32), lambda output: output)
    assert same["output"]


@pytest.mark.parametrize("bias", [True, False])
def test_stacked_patches_leave_out_what_fills_no_patch(bias: bool) -> None:
    layers: Any = shuffled([nn.Conv2d(3, 5, (4, 2), stride=(4, 2), bias=bias) for _ in range(3)])
    against_solo(layers, StackedPatchConv(layers), torch.randn(6, 3, 15, 9), lambda output: output)


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}, {"bias": False}]
)
@pytest.mark.parametrize("part", ["states", "hidden", "cell"])
def test_stacked_lstm_is_the_solo_layer(options: dict[str, Any], part: str) -> None:
    def take(result: Any) -> torch.Tensor:
        states, (hidden, cell) = result
        return {"states": states, "hidden": hidden.transpose(0, 1), "cell": cell.transpose(0, 1)}[part]  # type: ignore[no-any-return]

    layers: Any = shuffled([nn.LSTM(6, 5, batch_first=True, **options) for _ in range(3)])
    against_solo(layers, StackedLSTM(layers), torch.randn(12, 4, 6), take)


def test_frozen_weights_stay_frozen() -> None:
    layers = [nn.Linear(2, 2) for _ in range(2)]
    for layer in layers:
        layer.bias.requires_grad_(False)
    stacked = StackedLinear(layers)
    assert stacked.weight.requires_grad
    assert stacked.bias is not None
    assert not stacked.bias.requires_grad
