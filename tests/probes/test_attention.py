"""How far attention looks: captured exactly, and where the answer is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from timm.layers import Attention  # type: ignore[attr-defined]
from torch import nn
from torch.nn import functional as F

from models import build_network
from studies.probes import Probed, ProbeError
from studies.probes.attention import attention_distance, attention_distance_change, uniform_attention_distance
from studies.probes.attention_capture import attention_logits
from studies.probes.patch_grid import PatchGrid

PATCH = 4
FORMS = ["", "nopos", "relbias", "relbias-shared", "relquery", "rotary", "learned2d-every", "cls", "rotary-cls"]


def images(number: int = 3, size: tuple[int, int] = (16, 16), channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, channels, *size, generator=generator, dtype=torch.float64)


def batches(size: tuple[int, int] = (16, 16)) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images(3, size), torch.zeros(3, dtype=torch.int64))]


def sharp(network: nn.Module) -> nn.Module:
    """In float64, with large queries, keys and tables, so that attention is far from uniform."""
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if "position" in name or name.endswith("pos_embed"):
                weights.normal_()
            if name.endswith("qkv.weight"):
                weights.mul_(10)
    return network.double()


def nano(family: str, form: str = "") -> nn.Module:
    torch.manual_seed(0)
    variant = f"nano-{form}".removesuffix("-")
    return sharp(build_network(family, variant, image_size=16, in_channels=1, num_classes=3))


def timm_vit(**options: object) -> nn.Module:
    torch.manual_seed(0)
    small = {"img_size": 16, "patch_size": 4, "in_chans": 1, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return sharp(timm.models.VisionTransformer(**(small | options)))  # type: ignore[arg-type]


class Given(nn.Module):
    """One attention layer whose logits are given, `[heads, N, N]`, behind any image."""

    def __init__(self, logits: torch.Tensor, num_prefix_tokens: int = 0, *, fused: bool = True) -> None:
        super().__init__()
        self.logits, self.num_prefix_tokens, self.fused = logits, num_prefix_tokens, fused

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        number = len(pictures)
        heads, tokens, _ = self.logits.shape
        if not self.fused:
            return self.logits.expand(number, -1, -1, -1).softmax(dim=-1)
        nothing = torch.zeros(number, heads, tokens, 4, dtype=torch.float64)
        return F.scaled_dot_product_attention(nothing, nothing, nothing, attn_mask=self.logits)


def values(probed: Probed, quantity: str) -> list[float]:
    return [reading.value for reading in probed.readings if reading.quantity == quantity]


def check_captured_exactly(network: nn.Module) -> int:
    """softmax(captured) @ v through a layer's own projection is what the layer returned."""
    checked: list[str] = []
    logits = attention_logits(network, images())
    network.eval()

    def look(layer: Attention, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        name = next(name for name, module in network.named_modules() if module is layer)
        number, tokens, _ = inputs[0].shape
        split = layer.qkv(inputs[0]).view(number, tokens, 3, layer.num_heads, -1)
        mixed = logits[name].softmax(dim=-1) @ split[:, :, 2].transpose(1, 2)
        again = layer.proj(layer.norm(mixed.transpose(1, 2).flatten(2)))
        torch.testing.assert_close(again, output, rtol=1e-12, atol=1e-12)
        assert logits[name].softmax(dim=-1).amax() > 0.2  # far from uniform, so that a wrong logit shows
        checked.append(name)

    for layer in network.modules():
        if isinstance(layer, Attention):
            layer.register_forward_hook(look)  # type: ignore[arg-type]
    with torch.no_grad():
        network(images())
    assert checked == list(logits)
    return len(checked)


@pytest.mark.parametrize(
    ("family", "form"), [*itertools.product(["vit"], FORMS), ("hybrid", ""), ("hybrid", "relbias")]
)
def test_captured_logits_reproduce_each_layer_of_this_package(family: str, form: str) -> None:
    assert check_captured_exactly(nano(family, form)) == (3 if family == "vit" else 2)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "scale_attn_norm": True, "num_heads": 4}])
def test_captured_logits_reproduce_each_layer_of_timm(fused: bool, options: dict[str, object]) -> None:
    network = timm_vit(**options)
    for layer in network.modules():
        if isinstance(layer, Attention):
            layer.fused_attn = fused
    assert check_captured_exactly(network) == 2


def test_torch_attention_is_captured_and_computes_what_it_did() -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    tokens = torch.randn(3, 4, 8, dtype=torch.float64)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = layer
            self.outputs: list[tuple[torch.Tensor, torch.Tensor | None]] = []

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            del pictures
            self.outputs.append(layer(tokens, tokens, tokens, need_weights=False))
            return self.outputs[-1][0]

    network = Net()
    captured = attention_logits(network, images())["attention"].softmax(dim=-1)
    output, weights = layer(tokens, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(captured, weights)
    torch.testing.assert_close(network.outputs[0][0], output)
    assert network.outputs[0][1] is None


@pytest.mark.parametrize("masked", ["causal", "boolean", "grouped", "scaled"])
def test_the_kernel_is_read_as_it_is_documented(masked: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 6, generator=generator, dtype=torch.float64)
    options: dict[str, object] = {
        "causal": {"is_causal": True},
        "boolean": {"attn_mask": torch.rand(5, 5, generator=generator) < 0.7 + torch.eye(5)},
        "grouped": {"enable_gqa": True},
        "scaled": {"scale": 3.0},
    }[masked]
    if masked == "grouped":
        key, value = key[:, :2], value[:, :2]

    class Kernel(nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            del pictures
            return F.scaled_dot_product_attention(query, key, value, **options)  # type: ignore[arg-type]

    weights = attention_logits(Kernel(), images())[""].softmax(dim=-1)
    again = weights @ (value.repeat_interleave(2, dim=1) if masked == "grouped" else value)
    torch.testing.assert_close(again, Kernel()(images()), rtol=1e-12, atol=1e-12)


def test_uniform_attention_is_the_mean_distance_of_the_grid() -> None:
    found = attention_distance(Given(torch.zeros(2, 16, 16)), batches())
    places = [(PATCH * row, PATCH * column) for row in range(4) for column in range(4)]
    mean = sum(math.dist(one, other) for one in places for other in places) / 16**2
    assert values(found, "attention_distance") == pytest.approx([mean, mean], rel=1e-12)
    assert values(found, "attention_entropy") == pytest.approx([math.log(16)] * 2, rel=1e-12)
    np.testing.assert_allclose(found.arrays["uniform_attention_distance"], [mean], rtol=1e-6)
    assert {reading.num_images for reading in found.readings} == {3}


def test_the_mean_distance_along_a_line_has_a_closed_form() -> None:
    patches, pitch = 7, 5.0
    grid = PatchGrid(1, patches, pitch=(1.0, pitch))
    assert uniform_attention_distance(grid) == pytest.approx(pitch * (patches**2 - 1) / (3 * patches), rel=1e-12)


def test_no_attention_looks_farther_than_to_the_farthest_patch() -> None:
    """Of 4 x 4 places, the farthest from each is one of the corners."""
    places = [(row, column) for row in range(4) for column in range(4)]
    farthest = [max(range(16), key=lambda key: math.dist(place, places[key])) for place in places]
    found = attention_distance(Given(only(farthest)), batches())
    (largest,) = found.arrays["largest_attention_distance"]
    assert largest == pytest.approx(4 * (4 * 3 * 2**0.5 + 8 * 13**0.5 + 4 * 2 * 2**0.5) / 16, rel=1e-6)
    assert values(found, "attention_distance") == pytest.approx([largest], rel=1e-6)


def only(keys: list[int], num_prefix_tokens: int = 0) -> torch.Tensor:
    """Logits `[1, N, N]` of patches that attend to one patch each, and mostly to the tokens before them."""
    size = len(keys) + num_prefix_tokens
    logits = torch.full((1, size, size), float("-inf"), dtype=torch.float64)
    for query, key in enumerate(keys):
        logits[0, num_prefix_tokens + query, num_prefix_tokens + key] = 0.0
    logits[:, :, :num_prefix_tokens] = 50.0
    return logits


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("fused", [True, False])
def test_attention_to_one_patch_is_as_far_as_that_patch(prefix: int, fused: bool) -> None:
    itself = list(range(16))
    neighbour = [place + 1 if place % 4 < 3 else place - 1 for place in range(16)]
    below = [(place + 4) % 16 for place in range(16)]  # three rows of four look one down, the last looks three up
    for keys, expected in ((itself, 0.0), (neighbour, PATCH), (below, PATCH * 1.5)):
        found = attention_distance(Given(only(keys, prefix), prefix, fused=fused), batches())
        assert values(found, "attention_distance") == pytest.approx([expected], abs=1e-12)
        assert values(found, "attention_entropy") == pytest.approx([0.0], abs=1e-12)


def test_rows_and_columns_of_a_wide_image_have_their_own_distance() -> None:
    right = [place + 1 if place % 8 < 7 else place - 1 for place in range(16)]  # 2 rows of 8 on 8 x 32 px
    network = Given(only(right))
    assert values(attention_distance(network, batches(size=(8, 32))), "attention_distance") == pytest.approx([4.0])


def test_a_hybrid_counts_pixels_of_the_image() -> None:
    network = nano("hybrid")
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if "qkv" in name:
                weights.zero_()
    found = attention_distance(network, batches())
    mean = uniform_attention_distance(PatchGrid(4, 4, pitch=(4.0, 4.0)))
    assert values(found, "attention_distance") == pytest.approx([mean] * 4, rel=1e-6)  # two layers of two heads
    assert [(reading.depth, reading.head) for reading in found.readings[::2]] == [(0, 0), (0, 0), (1, 0), (1, 0)]


def test_batches_are_averaged_over_images() -> None:
    network = nano("vit")
    whole = attention_distance(network, [(images(5), torch.zeros(5))])
    parts = attention_distance(network, [(images(5)[:3], torch.zeros(3)), (images(5)[3:], torch.zeros(2))])
    for one, other in zip(whole.readings, parts.readings, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-12)
    fewer = attention_distance(network, [(images(5), torch.zeros(5))], num_images=2)
    assert fewer.readings == attention_distance(network, [(images(5)[:2], torch.zeros(2))]).readings


def test_change_is_the_difference_of_two_networks() -> None:
    trained, initial = Given(only(list(range(16)))), Given(torch.zeros(1, 16, 16))
    found = attention_distance_change(trained, initial, iter(batches()))
    assert values(found, "attention_distance_change") == pytest.approx(
        [-uniform_attention_distance(PatchGrid(4, 4, pitch=(4.0, 4.0)))]
    )
    assert values(found, "attention_entropy_change") == pytest.approx([-math.log(16)])
    with pytest.raises(ProbeError, match="same architecture"):
        attention_distance_change(trained, Given(torch.zeros(2, 16, 16)), batches())


@pytest.mark.parametrize("family", ["resnet", "mixer", "lstm", "mlp"])
def test_a_network_without_attention_says_so(family: str) -> None:
    with pytest.raises(ProbeError, match="no attention among the patches"):
        attention_distance(nano(family), batches())


def test_what_cannot_be_measured_is_told() -> None:
    windows = timm.create_model("swin_tiny_patch4_window7_224", img_size=32, window_size=4, in_chans=1, depths=(1,),
                                embed_dim=12, num_heads=(2,))  # fmt: skip
    with pytest.raises(ProbeError, match="within windows"):
        attention_distance(windows.double(), batches(size=(32, 32)))
    with pytest.raises(ProbeError, match="diverged"):
        attention_distance(Given(torch.full((1, 16, 16), float("nan"))), batches())
    with pytest.raises(ProbeError, match="11 tokens"):
        attention_distance(Given(torch.zeros(1, 11, 11)), batches())
    with pytest.raises(ProbeError, match="single patch"):
        attention_distance(Given(torch.zeros(1, 1, 1)), batches())
    with pytest.raises(ProbeError, match="no images to show"):
        attention_distance(Given(torch.zeros(1, 16, 16)), [])


def test_the_network_is_left_as_it_was_also_after_an_error() -> None:
    network = timm_vit(depth=1).train()
    network.blocks[0].eval()  # type: ignore[union-attr, operator]
    modes = [module.training for module in network.modules()]

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    attention_distance(network, batches())
    hook = network.norm.register_forward_hook(fail)  # type: ignore[union-attr, operator]
    with pytest.raises(RuntimeError, match="broken"):
        attention_distance(network, batches())
    hook.remove()
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert network(images()).requires_grad


@pytest.mark.parametrize("options", [{}, {"average_attn_weights": False}, {"need_weights": False}])
def test_torch_attention_gives_the_weights_that_it_is_asked_for(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    tokens, into, out = torch.randn(4, 3, 8), torch.randn(24, 8), torch.randn(8, 8)
    given: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    class Net(nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            del pictures
            given.append(
                F.multi_head_attention_forward(
                    tokens, tokens, tokens, 8, 2, into, None, None, None, False, 0.0, out, None, **options
                )
            )
            return given[-1][0]

    assert attention_logits(Net(), images())[""].shape == (3, 2, 4, 4)
    Net()(images())
    (output, weights), (expected, expected_weights) = given
    torch.testing.assert_close(output, expected)
    assert (weights is None) == (expected_weights is None) == (options == {"need_weights": False})
    if weights is not None:
        torch.testing.assert_close(weights, expected_weights)


def test_patches_that_are_not_square_have_two_pitches() -> None:
    network = Given(only([1, 0, 3, 2, 5, 4, 7, 6]))  # the neighbour in the row; 2 rows of 4 on 16 x 16 px
    network.patch_embed = SimpleNamespace(grid_size=(2, 4))  # type: ignore[assignment]
    assert values(attention_distance(network, batches()), "attention_distance") == pytest.approx([4.0])
    network.logits = only([4, 5, 6, 7, 0, 1, 2, 3])
    assert values(attention_distance(network, batches()), "attention_distance") == pytest.approx([8.0])


def test_prefix_tokens_of_a_network_in_a_holder_are_known() -> None:
    """Four registers and a class token before 2 x 2 patches: nine tokens, which are no grid of 3 x 3."""
    network = timm_vit(patch_size=8, depth=1, reg_tokens=4)
    holder = nn.Sequential(nn.Sequential(network), nn.Identity())
    plain, held = attention_distance(network, batches()), attention_distance(holder, batches())
    assert [one.value for one in held.readings] == [one.value for one in plain.readings]
    assert plain.arrays["uniform_attention_distance"] == held.arrays["uniform_attention_distance"]


class Mixed(nn.Module):
    """Patches of 4 x 4, among which one kind of attention runs."""

    def __init__(self, width: int, attend: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.attend = nn.Conv2d(1, width, 4, 4).double(), attend

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.attend(self.stem(pictures).flatten(2).transpose(1, 2))


def test_channels_that_attend_to_channels_are_no_patches() -> None:
    def over_channels(tokens: torch.Tensor) -> torch.Tensor:
        turned = tokens.transpose(1, 2).unsqueeze(1)  # [B, 1, 9, 16]: nine channels are no grid of 3 x 3
        return F.scaled_dot_product_attention(turned, turned, turned)

    with pytest.raises(ProbeError, match="no attention among the patches"):
        attention_distance(Mixed(9, over_channels), batches())


@pytest.mark.parametrize("fused", [True, False])
def test_attention_without_an_axis_of_heads_is_one_head(fused: bool) -> None:
    def one_head(tokens: torch.Tensor) -> torch.Tensor:
        if fused:
            return F.scaled_dot_product_attention(tokens, tokens, tokens, scale=1.0)
        return (tokens @ tokens.transpose(1, 2)).softmax(dim=-1) @ tokens

    def with_axis(tokens: torch.Tensor) -> torch.Tensor:
        heads = tokens.unsqueeze(1)
        return F.scaled_dot_product_attention(heads, heads, heads, scale=1.0)

    found = attention_distance(Mixed(8, one_head), batches())
    expected = attention_distance(Mixed(8, with_axis), batches())
    assert len(found.readings) == 2
    assert [one.value for one in found.readings] == pytest.approx([one.value for one in expected.readings])

    def folded(tokens: torch.Tensor) -> torch.Tensor:
        heads = tokens.unflatten(2, (2, 4)).transpose(1, 2).flatten(0, 1)
        return one_head(heads)

    with pytest.raises(ProbeError, match="or has its heads among its images"):
        attention_distance(Mixed(8, folded), batches())


def test_attention_that_goes_to_no_patch_is_not_called_diverged() -> None:
    logits = only(list(range(16)), 1)
    logits[:, 3, 1:] = float("-inf")
    with pytest.raises(ProbeError, match="attends to no patch at all"):
        attention_distance(Given(logits, 1), batches())
