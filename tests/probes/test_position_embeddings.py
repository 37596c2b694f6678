"""What position embeddings say about places, where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from scipy import stats
from torch import nn

from models import build_network
from studies.probes import Probed, ProbeError
from studies.probes.position_embeddings import position_similarity, position_similarity_change
from studies.probes.wrapping import declaring

GRID = 4


def nano(form: str = "", family: str = "vit", *, seed: int = 0, image_size: int = 16) -> nn.Module:
    torch.manual_seed(seed)
    variant = f"nano-{form}".removesuffix("-")
    return build_network(family, variant, image_size=image_size, in_channels=1, num_classes=3)


def value(probed: Probed, quantity: str) -> float:
    (found,) = (reading.value for reading in probed.readings if reading.quantity == quantity)
    return found


def distances(grid: int = GRID) -> np.ndarray:
    places = [(row, column) for row in range(grid) for column in range(grid)]
    return np.array([[math.dist(one, other) for other in places] for one in places])


def with_table(table: torch.Tensor, form: str = "") -> nn.Module:
    """A nano ViT, its learnt position embeddings replaced by `[T, D]`."""
    network = nano(form)
    with torch.no_grad():
        network.pos_embed.copy_(table)  # type: ignore[operator, union-attr]
    return network


def test_sinusoids_of_row_and_column_have_their_similarity_in_closed_form() -> None:
    found = position_similarity(nano("sin2d"))
    width = 32  # of the nano tier at 16 px: 8 frequencies for the row, 8 for the column, sine and cosine each
    frequencies = 10_000 ** (-np.arange(0, width // 2, 2) / (width // 2))
    similarity = np.empty((GRID**2, GRID**2))
    for one in range(GRID**2):
        for other in range(GRID**2):
            down, across = (a - b for a, b in zip(divmod(one, GRID), divmod(other, GRID), strict=True))
            similarity[one, other] = (np.cos(frequencies * down) + np.cos(frequencies * across)).sum() / (width / 2)
    np.testing.assert_allclose(found.arrays["position_similarity"], similarity[None], atol=1e-6)
    upper = np.triu_indices(GRID**2, 1)
    pearson = stats.pearsonr(similarity[upper], distances()[upper]).statistic
    assert value(found, "position_similarity_pearson") == pytest.approx(pearson, abs=1e-5)
    assert value(found, "position_similarity_spearman") < -0.9
    assert {(one.layer, one.depth, one.num_images) for one in found.readings} == {("position", 0, 0)}


def test_places_on_an_arc_are_as_alike_as_the_cosine_of_their_distance() -> None:
    """A plane, of a small angle for each step of row and column: similarity falls evenly in squared distance."""
    angle = 1e-3
    rows, columns = (torch.arange(GRID**2) // GRID, torch.arange(GRID**2) % GRID)
    table = torch.zeros(GRID**2, 32)
    table[:, 0], table[:, 1], table[:, 2] = 1.0, angle * rows, angle * columns
    found = position_similarity(with_table(table).double())
    upper = np.triu_indices(GRID**2, 1)
    assert value(found, "position_similarity_spearman") < -0.98
    expected = stats.pearsonr(-(distances()[upper] ** 2), distances()[upper]).statistic
    assert value(found, "position_similarity_pearson") == pytest.approx(expected, abs=1e-2)


def test_a_class_token_has_no_place() -> None:
    torch.manual_seed(0)
    network = timm.models.VisionTransformer(
        img_size=(8, 16), patch_size=4, in_chans=1, embed_dim=32, depth=1, num_heads=2
    )
    plain = position_similarity(network)
    assert plain.arrays["position_similarity"].shape == (1, 8, 8)
    vectors = network.pos_embed[0, 1:].detach().double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(plain.arrays["position_similarity"][0], vectors @ vectors.T, atol=1e-6)
    places = np.array([(row, column) for row in range(2) for column in range(4)])
    upper = np.triu_indices(8, 1)
    lengths = np.linalg.norm(places[:, None] - places, axis=2)[upper]
    expected = stats.spearmanr((vectors @ vectors.T)[upper], lengths).statistic
    assert value(plain, "position_similarity_spearman") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("form", ["", "cls"])
def test_untrained_tables_know_nothing_of_distance(form: str) -> None:
    network = nano(form, image_size=32)
    found = position_similarity(network)
    assert found.arrays["position_similarity"].shape == (1, 64, 64)
    assert abs(value(found, "position_similarity_pearson")) < 0.1
    assert abs(value(found, "position_similarity_spearman")) < 0.1


def test_halves_for_row_and_column_are_taken_together() -> None:
    network = nano("learned2d")
    similarity = position_similarity(network).arrays["position_similarity"][0]
    rows, columns = (getattr(network.position, name).detach() for name in ("rows", "columns"))
    whole = torch.stack([torch.cat([rows[place // GRID], columns[place % GRID]]) for place in range(GRID**2)])
    expected = nn.functional.cosine_similarity(whole[:, None], whole[None], dim=-1)
    np.testing.assert_allclose(similarity, expected, atol=1e-6)


def test_every_layer_with_its_own_table_is_told_by_name() -> None:
    found = position_similarity(nano("learned2d-every"))
    assert found.arrays["position_similarity"].shape == (3, 16, 16)
    assert [(one.layer, one.depth) for one in found.readings[::2]] == [(f"blocks.{n}.position", n) for n in range(3)]
    assert len(position_similarity(nano("learned2d-shared")).readings) == 2
    assert position_similarity(nano("sin1d", "hybrid")).arrays["position_similarity"].shape == (1, 16, 16)


@pytest.mark.parametrize("form", ["relbias", "relbias-cls"])
def test_a_bias_that_falls_with_distance_says_so(form: str) -> None:
    network = nano(form)
    offsets = network.blocks[1].attn.position.offsets  # type: ignore[index, union-attr]
    steps = np.arange(1 - GRID, GRID)
    lengths = np.hypot(steps[:, None], steps)
    with torch.no_grad():
        table = offsets.relative_position_bias_table
        table[: lengths.size, 0] = torch.tensor(-lengths.ravel())  # rows of timm's table: offsets in raster order
        table[: lengths.size, 1] = torch.tensor(lengths.ravel() ** 2)
    found = position_similarity(network)
    assert found.arrays["position_bias"].shape == (3, 2, 7, 7)
    np.testing.assert_allclose(found.arrays["position_bias"][1, 0], -lengths, atol=1e-6)
    by_place = {(one.quantity, one.layer, one.depth, one.head): one.value for one in found.readings}
    layer = "blocks.1.attn.position"
    assert by_place["position_bias_pearson", layer, 1, 0] == pytest.approx(-1, abs=1e-6)
    assert by_place["position_bias_spearman", layer, 1, 1] == pytest.approx(1, abs=1e-6)
    assert abs(by_place["position_bias_pearson", "blocks.0.attn.position", 0, 0]) < 0.4


def test_an_offset_goes_from_query_to_key() -> None:
    network = nano("relbias-shared")
    bias = network.position.offsets.get_bias()[0, 1].detach()  # type: ignore[union-attr, operator]
    table = position_similarity(network).arrays["position_bias"][0, 1]
    assert table[3 + 2, 3 - 1] == pytest.approx(float(bias[0 * GRID + 1, 2 * GRID + 0]))  # two down, one left


def test_relative_positions_of_timm_are_read() -> None:
    torch.manual_seed(0)
    network = timm.create_model("vit_relpos_small_patch16_224", img_size=64, depth=2, embed_dim=32, num_heads=2)
    found = position_similarity(network)
    assert found.arrays["position_bias"].shape == (2, 2, 7, 7)
    assert [one.layer for one in found.readings[::4]] == ["blocks.0.attn.rel_pos", "blocks.1.attn.rel_pos"]


def test_change_is_the_difference_of_two_networks() -> None:
    trained, initial = nano("sin2d"), nano("sin2d")
    assert value(position_similarity_change(trained, initial), "position_similarity_pearson_change") == 0
    known = nano()
    with torch.no_grad():
        known.pos_embed.copy_(trained.position.table())  # type: ignore[operator, union-attr]
    before, after = position_similarity(nano(seed=1)), position_similarity(known)
    difference = value(after, "position_similarity_pearson") - value(before, "position_similarity_pearson")
    found = position_similarity_change(known, nano(seed=1))
    assert value(found, "position_similarity_pearson_change") == pytest.approx(difference)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("vit nopos", "no position embedding"),
        ("vit rotary", "turns queries and keys"),
        ("vit relquery", "matches keys of raster offsets"),
        ("resnet ", "no position embedding"),
        ("mixer ", "no position embedding"),
        ("mlp ", "no position embedding"),
    ],
)
def test_networks_that_embed_no_places_say_why(network: str, reason: str) -> None:
    family, _, form = network.partition(" ")
    with pytest.raises(ProbeError, match=reason):
        position_similarity(nano(form, family))


def test_undefined_correlations_are_told() -> None:
    with pytest.raises(ProbeError, match="says the same of all places"):
        position_similarity(with_table(torch.ones(GRID**2, 32)))
    with pytest.raises(ProbeError, match="zero vector"):
        position_similarity(with_table(torch.zeros(GRID**2, 32)))
    with pytest.raises(ProbeError, match="diverged"):
        position_similarity(with_table(torch.full((GRID**2, 32), float("nan"))))
    network = nano()
    network.pos_embed, network.patch_embed = nn.Parameter(torch.randn(1, 19, 8)), nn.Identity()
    with pytest.raises(ProbeError, match="19 position embeddings"):
        position_similarity(network)


class Holder(nn.Module):
    """What holds a network, as a LightningModule does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.criterion = network, nn.CrossEntropyLoss()


def test_a_network_that_is_held_by_a_module_is_found() -> None:
    torch.manual_seed(0)
    network = timm.models.VisionTransformer(
        img_size=(8, 16), patch_size=4, in_chans=1, embed_dim=32, depth=1, num_heads=2
    )
    plain, held = position_similarity(network), position_similarity(Holder(Holder(network)))
    np.testing.assert_array_equal(held.arrays["position_similarity"], plain.arrays["position_similarity"])
    assert {one.layer for one in held.readings} == {"network.network.pos_embed"}
    assert declaring(nn.ModuleList([network, network.patch_embed]))[1] is network
    both = nn.ModuleList([network, nano()])
    assert declaring(both) == ("", both), "of two, none is meant"


def test_a_bias_that_is_not_read_is_named() -> None:
    network = timm.create_model("beit_base_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=2)
    with pytest.raises(ProbeError, match=r"not read here, relative_position_bias_table of 'blocks.0.attn'"):
        position_similarity(network)
