"""Layers of any network, where they lie on the image, and what is read there."""

from collections import OrderedDict

import pytest
import timm
import torch
from probed_networks import breaks_in_the_middle, convolutional, every_family, images, left_as_it_was, nano
from torch import Tensor, nn

from models import ImageClassifier, features
from studies.probes.layers import captured, network_layers, spatial_layers

GRIDS = {
    "vit": [(4, 4)] * 5,
    "resnet": [(16, 16), (16, 16), (8, 8), (4, 4)],
    "hybrid": [(16, 16), (8, 8), (4, 4), (4, 4), (4, 4), (4, 4), (4, 4)],
    "mixer": [(4, 4)] * 6,
    "lstm": [(4, 4)] * 5,
    "mlp": [],
}


@every_family
def test_grids_of_every_family(family: str) -> None:
    network = nano(family)
    layers = network_layers(network, images())
    assert [layer.grid for layer in layers if layer.grid] == GRIDS[family]
    assert all(layer.stride == (16 / layer.grid[0],) * 2 for layer in layers if layer.grid)
    assert [layer.name for layer in layers[-2:]] == ["features", "logits"]
    assert [layer.name for layer in spatial_layers(network, images())] == [one.name for one in layers if one.grid]


@pytest.mark.parametrize(
    ("model", "options", "num_maps", "last"),
    [
        ("vit_tiny_patch16_224", {"img_size": 64}, 14, (4, 4)),
        ("resnet18", {}, 12, (2, 2)),
        ("convnext_atto", {}, 16, (2, 2)),
        ("mixer_s32_224", {"img_size": 64}, 10, (2, 2)),
    ],
)
def test_models_of_timm(model: str, options: dict[str, int], num_maps: int, last: tuple[int, int]) -> None:
    layers = spatial_layers(timm.create_model(model, **options), images(2, 3, 64))
    assert len(layers) == num_maps
    assert layers[-1].grid == last
    assert layers[-1].num_prefix_tokens == model.startswith("vit")


@every_family
def test_what_is_captured_is_what_the_network_computes(family: str) -> None:
    network, pictures = nano(family).eval(), images()
    layers = network_layers(network, pictures)
    with captured(network, layers) as seen:
        logits = network(pictures)
    assert torch.equal(seen["logits"].flatten(1), logits)
    torch.testing.assert_close(seen["features"].flatten(1), features(network, pictures))
    assert {layer.name: layer.grid or (1, 1) for layer in layers} == {
        name: tuple(output.shape[2:]) for name, output in seen.items()
    }


def test_tokens_are_laid_out_row_by_row_without_the_class_token() -> None:
    network, pictures = nano("vit", "cls"), images()
    (block,) = (layer for layer in spatial_layers(network, pictures) if layer.name == "blocks.0")
    tokens = torch.arange(17.0).reshape(1, 17, 1)
    assert block.as_map(tokens).flatten().tolist() == list(range(1, 17))
    assert block.as_map(tokens)[0, 0, 1].tolist() == [5, 6, 7, 8]


def test_channels_last_maps_are_turned() -> None:
    block = spatial_layers(nano("lstm"), images())[1]
    assert block.as_map(torch.zeros(2, 4, 4, 32)).shape == (2, 32, 4, 4)


def test_layers_that_write_over_their_input_are_kept_apart() -> None:
    network = convolutional(lambda: nn.ReLU(inplace=True))
    with captured(network, network_layers(network, images())) as seen:
        network(images())
    assert seen["0"].min() < 0 <= seen["1"].min()


def test_strides_are_whole_whatever_the_borders() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, stride=2), nn.Conv2d(2, 2, 3, stride=2))
    layers = network_layers(network, images(2, 1, 28))
    assert [layer.grid for layer in layers] == [(26, 26), (12, 12), (5, 5)]
    assert [layer.stride for layer in layers] == [(1, 1), (2, 2), (4, 4)]


def test_a_residual_block_is_one_layer_and_a_chain_is_opened() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, maps: Tensor) -> Tensor:
            inner: Tensor = self.second(self.first(maps))
            inner += maps  # in place: the output lies where the second convolution's does
            return inner

    network = nn.Sequential(nn.Sequential(Residual(), Residual()), nn.Dropout(), nn.Flatten(), nn.Linear(256, 2))
    assert [layer.name for layer in network_layers(network, images())] == ["0.0", "features", "logits"]
    first = nn.Sequential(nn.Sequential(Residual(), Residual(), nn.Conv2d(1, 2, 1)), nn.Flatten(), nn.Linear(512, 2))
    assert [layer.name for layer in network_layers(first, images())] == ["0.0", "0.1", "features", "logits"]


def test_a_wrapped_network_is_opened() -> None:
    network = ImageClassifier("vit", "nano", image_size=16, in_channels=1, num_classes=3)
    names = [layer.name for layer in network_layers(network, images())]
    assert "network.blocks.0" in names
    assert names[-2:] == ["features", "logits"]


def test_the_network_is_left_as_it_was() -> None:
    network = convolutional(nn.GELU)
    with left_as_it_was(network):
        network_layers(network, images())
    broken = breaks_in_the_middle(convolutional(nn.GELU), 0)
    with left_as_it_was(broken), pytest.raises(RuntimeError, match="out of passes"):
        network_layers(broken, images())


class Table(nn.Module):
    """Gives the same places for all images, `[1, C, h, w]`."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 4, 4, 4))

    def forward(self, maps: Tensor) -> Tensor:
        del maps
        return self.places * 1.0


def test_an_output_without_images_is_no_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.table, self.body = nn.Conv2d(1, 4, 4, 4), Table(), nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(4, 2)

        def forward(self, pictures: Tensor) -> Tensor:
            maps = self.stem(pictures)
            logits: Tensor = self.head(self.body(maps + self.table(maps)).mean((2, 3)))
            return logits

    for count in (1, 2, 5):
        names = [layer.name for layer in network_layers(Net(), images(count))]
        assert names == ["stem", "body", "features", "logits"]


def test_the_stride_is_the_one_that_convolutions_state() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 2, 2), nn.Conv2d(4, 4, 7), nn.Conv2d(4, 4, 5), nn.MaxPool2d(2))
    layers = spatial_layers(network.extend([nn.GELU(), nn.Flatten(), nn.Linear(36, 2)]), images(2, 1, 32))
    assert [layer.grid for layer in layers] == [(16, 16), (10, 10), (6, 6), (3, 3)]
    assert [layer.stride for layer in layers] == [(2, 2), (2, 2), (2, 2), (4, 4)]


def test_the_stride_of_a_branch_is_that_of_what_it_reads() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.down, self.side = nn.Conv2d(1, 4, 2, 2), nn.Conv2d(4, 4, 2, 2), nn.Conv2d(4, 4, 5)
            self.head = nn.Linear(64, 2)

        def forward(self, pictures: Tensor) -> Tensor:
            maps = self.stem(pictures)
            logits: Tensor = self.head((self.down(maps) + self.side(maps)).flatten(1))
            return logits

    found = {layer.name: (layer.grid, layer.stride) for layer in spatial_layers(Branches(), images())}
    assert found == {"stem": ((8, 8), (2, 2)), "down": ((4, 4), (4, 4)), "side": ((4, 4), (2, 2))}


class Pair(nn.Module):
    """Two convolutions that are one layer, since their sum with itself is no chain."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, maps: Tensor) -> Tensor:
        return 1.0 * self.second(self.first(maps))  # type: ignore[no-any-return]


def test_a_layer_whose_stride_cannot_be_told_is_left_out() -> None:
    """16 -> 8 without padding: a stride of 1 that only sizes would take for one of 2."""
    losing = Pair(nn.Conv2d(1, 4, 5), nn.Conv2d(4, 4, 5))
    network = nn.Sequential(losing, nn.GELU(), nn.Flatten(), nn.Linear(256, 2))
    assert [layer.name for layer in network_layers(network, images())] == ["features", "logits"]
    kept = Pair(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3))  # 16 -> 12
    one = Pair(nn.Conv2d(1, 4, 5, stride=2), nn.GELU())  # 16 -> 6
    strided = Pair(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, padding=1))  # 16 -> 8
    for layer, stride in ((kept, 1), (one, 2), (strided, 2)):
        (found,) = spatial_layers(nn.Sequential(layer, nn.GELU(), nn.Flatten(), nn.LazyLinear(2)), images())[:1]
        assert (found.name, found.stride) == ("0", (stride, stride))


def test_a_map_as_wide_as_it_has_channels_lies_as_modules_say() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mix, self.act, self.head = (
                nn.Conv2d(1, 4, 4, 4),
                nn.Linear(4, 4),
                nn.GELU(),
                nn.Linear(4, 2),
            )

        def forward(self, pictures: Tensor) -> Tensor:
            turned = self.act(self.mix(self.stem(pictures).permute(0, 2, 3, 1)))
            logits: Tensor = self.head(turned.mean((1, 2)))
            return logits

    found = {layer.name: layer.arrangement.name for layer in spatial_layers(Turned(), images())}
    assert found == {"stem": "MAP", "mix": "CHANNELS_LAST", "act": "CHANNELS_LAST"}

    class Silent(nn.Module):
        """Patches that no module tells the arrangement of."""

        def __init__(self) -> None:
            super().__init__()
            self.patches, self.head = Unfolded(), nn.Linear(64, 2)

        def forward(self, pictures: Tensor) -> Tensor:
            logits: Tensor = self.head(self.patches(pictures)[:, 0].flatten(1))
            return logits

    class Unfolded(nn.Module):
        def forward(self, pictures: Tensor) -> Tensor:
            return pictures[:, :, ::2, ::2].repeat(1, 8, 1, 1)

    assert spatial_layers(Silent(), images()) == ()


@pytest.mark.parametrize("name", ["features", "logits"])
def test_a_module_may_be_called_as_a_layer_that_every_network_has(name: str) -> None:
    first = nn.Conv2d(1, 4, 3, padding=1)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(OrderedDict([(name, first), ("act", nn.GELU()), ("pool", head), ("head", nn.Linear(4, 2))]))
    names = [layer.name for layer in network_layers(network, torch.randn(2, 1, 8, 8))]
    assert names[0] == f"network.{name}"
    assert names[-1] == "logits"
    assert len(set(names)) == len(names)


def test_what_a_classifier_called_features_reads_is_features() -> None:
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(OrderedDict([("body", body), ("features", nn.Linear(4, 2))]))
    names = [layer.name for layer in network_layers(network, torch.randn(2, 1, 8, 8))]
    assert names[-2:] == ["features", "logits"]
