"""Layers of any network, where they lie on the image, and what is read there."""

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
    assert [layer.name for layer in layers[-2:]] == ["features", ""]
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
    assert torch.equal(seen[""].flatten(1), logits)
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
    assert [layer.name for layer in network_layers(network, images())] == ["0.0", "features", ""]
    first = nn.Sequential(nn.Sequential(Residual(), Residual(), nn.Conv2d(1, 2, 1)), nn.Flatten(), nn.Linear(512, 2))
    assert [layer.name for layer in network_layers(first, images())] == ["0.0", "0.1", "features", ""]


def test_a_wrapped_network_is_opened() -> None:
    network = ImageClassifier("vit", "nano", image_size=16, in_channels=1, num_classes=3)
    names = [layer.name for layer in network_layers(network, images())]
    assert "network.blocks.0" in names
    assert names[-2:] == ["features", ""]


def test_the_network_is_left_as_it_was() -> None:
    network = convolutional(nn.GELU)
    with left_as_it_was(network):
        network_layers(network, images())
    broken = breaks_in_the_middle(convolutional(nn.GELU), 0)
    with left_as_it_was(broken), pytest.raises(RuntimeError, match="out of passes"):
        network_layers(broken, images())
