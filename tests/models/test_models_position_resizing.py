"""A network at another image size: layouts, and position tables moved to another grid."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from models.hybrid import build_hybrid, hybrid_layout
from models.position import patch_places, resized_positions
from models.registry import FAMILIES
from models.tiers import TIERS
from models.transformer_form import form_names
from models.vit import build_vit, vit_layout

OLD, NEW = 4, 8  # grids of the nano tier at 16 and at 32 px
PLACES = ["", *(name for name in form_names() if "cls" not in name and "regularized" not in name)]
MOVABLE = [name for name in PLACES if "relquery" not in name and "sin1d" not in name]


def layout_of(family: str, form: str, image_size: int = 16) -> Any:
    layout = vit_layout if family == "vit" else hybrid_layout
    return layout(TIERS["nano"], form, image_size, 1)


def network_of(layout: Any, num_classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return FAMILIES["vit" if hasattr(layout, "patch_size") else "hybrid"].build(layout, num_classes)


def plane(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """A linear function of place with another slope for each of three channels, ``[rows, columns, 3]``."""
    slopes = torch.tensor([[1.0, -2.0], [0.5, 0.25], [0.0, 3.0]], dtype=rows.dtype)
    return rows[:, None, None] * slopes[:, 0] + columns[None, :, None] * slopes[:, 1] + 5


@pytest.mark.parametrize("form", PLACES)
@pytest.mark.parametrize("family", ["vit", "hybrid"])
def test_the_same_grid_is_the_identity(family: str, form: str) -> None:
    state = network_of(layout_of(family, form)).state_dict()
    resized = resized_positions(state, old_grid=OLD, new_grid=OLD)
    assert list(resized) == list(state)
    assert all(resized[name] is tensor for name, tensor in state.items())


@pytest.mark.parametrize("form", [*MOVABLE, "cls", "learned2d-cls", "relbias-cls"])
@pytest.mark.parametrize("family", ["vit", "hybrid"])
def test_a_resized_state_is_that_of_the_same_network_on_larger_images(family: str, form: str) -> None:
    layout = layout_of(family, form)
    state = network_of(layout).state_dict()
    larger = network_of(layout.at(32))
    resized = resized_positions(state, old_grid=layout.grid_size, new_grid=layout.at(32).grid_size)
    larger.load_state_dict(resized)
    assert larger(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
    moved = {name for name in state if resized[name] is not state[name]}
    assert moved == {name for name in state if "position" in name.split(".") or name == "pos_embed"}


@pytest.mark.parametrize(
    ("name", "num_prefix_rows"),
    [
        ("pos_embed", 0),
        ("pos_embed", 1),  # timm's own tables may have a row for a class token
        ("network.pos_embed", 1),
        ("position.embedding", 0),
        ("blocks.1.position.embedding", 0),
    ],
)
def test_a_plane_is_interpolated_exactly_at_twice_the_size(name: str, num_prefix_rows: int) -> None:
    """But for a border of two old patches, where the cubic kernel lacks neighbours."""
    grid, before = 10, patch_places(10, 10).float()
    table = plane(before, before).flatten(0, 1)
    if "pos_embed" in name:
        table = torch.cat([torch.full((num_prefix_rows, 3), 77.0), table])[None]
    resized = resized_positions({name: table}, old_grid=grid, new_grid=2 * grid)[name]
    assert resized.shape == (*table.shape[:-2], 4 * grid**2 + num_prefix_rows, 3)
    assert torch.equal(resized[..., :num_prefix_rows, :], table[..., :num_prefix_rows, :])
    found = resized[..., num_prefix_rows:, :].reshape(2 * grid, 2 * grid, 3)
    after = patch_places(2 * grid, grid).float()
    torch.testing.assert_close(found[4:-4, 4:-4], plane(after, after)[4:-4, 4:-4], rtol=0, atol=1e-4)
    assert float((found - plane(after, after)).abs().max()) < 1.0, "the border is near the plane"


def test_lines_of_rows_and_columns_are_interpolated_exactly() -> None:
    before, after = patch_places(10, 10).float(), patch_places(20, 10).float()
    slopes = torch.tensor([1.0, -2.0])
    state = {"position.rows": before[:, None] * slopes + 3, "position.columns": before[:, None] * -slopes}
    resized = resized_positions(state, old_grid=10, new_grid=20)
    torch.testing.assert_close(resized["position.rows"][4:-4], (after[:, None] * slopes + 3)[4:-4], rtol=0, atol=1e-5)
    torch.testing.assert_close(resized["position.columns"][4:-4], (after[:, None] * -slopes)[4:-4], rtol=0, atol=1e-5)


def test_a_plane_of_biases_is_interpolated_exactly_at_every_old_offset() -> None:
    """Offsets are counted in old patches; those beyond the old reach take the value at its edge."""
    name = "blocks.0.attn.position.offsets.relative_position_bias_table"
    old = torch.arange(1 - OLD, OLD, dtype=torch.float64)
    resized = resized_positions({name: plane(old, old).flatten(0, 1)}, old_grid=OLD, new_grid=NEW)[name]
    reached = (torch.arange(1 - NEW, NEW, dtype=torch.float64) / 2).clamp(1 - OLD, OLD - 1)
    assert resized.shape == ((2 * NEW - 1) ** 2, 3)
    torch.testing.assert_close(resized, plane(reached, reached).flatten(0, 1), rtol=0, atol=1e-12)
    assert float(reached.abs().max()) == OLD - 1 < (NEW - 1) / 2, "some offsets lie beyond"


@pytest.mark.parametrize("factor", [2, 3])
def test_biases_of_offsets_that_both_grids_have_stay_as_they_are(factor: int) -> None:
    """In the network: the bias between two places of the image that are patch centres of both grids' offsets."""
    torch.manual_seed(0)
    state = {"position.offsets.relative_position_bias_table": torch.randn((2 * OLD - 1) ** 2, 2)}
    name = next(iter(state))
    finer = resized_positions(state, old_grid=OLD, new_grid=factor * OLD)[name]
    centre, side = factor * OLD - 1, 2 * factor * OLD - 1
    first = centre - factor * (OLD - 1)
    found = finer.view(side, side, 2)[first::factor, first::factor][: 2 * OLD - 1, : 2 * OLD - 1]
    torch.testing.assert_close(found, state[name].view(2 * OLD - 1, 2 * OLD - 1, 2), rtol=0, atol=1e-5)
    back = resized_positions({name: finer}, old_grid=factor * OLD, new_grid=OLD)[name]
    torch.testing.assert_close(back, state[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["relquery", "relquery-shared"])
def test_raster_offsets_are_refused(form: str) -> None:
    state = network_of(layout_of("vit", form)).state_dict()
    with pytest.raises(ValueError, match=r"position\.offset_keys: .*from a grid of 4 to one of 8: the same offset"):
        resized_positions(state, old_grid=OLD, new_grid=NEW)


@pytest.mark.parametrize("form", ["sin1d", "sin1d-every-cls"])
@pytest.mark.parametrize("family", ["vit", "hybrid"])
def test_raster_places_are_refused(family: str, form: str) -> None:
    """Scaled to those of the old grid they would be shared: 36 places for 64 patches."""
    layout = layout_of(family, form)
    assert layout.at(16) == layout
    with pytest.raises(ValueError, match=r"'sin1d' on a grid of 8 designed for one of 4: .* use the form sin2d"):
        layout.at(32)


@pytest.mark.parametrize("form", ["sin1d", "sin2d"])
def test_sinusoids_tell_every_patch_from_every_other(form: str) -> None:
    for image_size in (16, 32) if form == "sin2d" else (16,):
        built: Any = build_vit(layout_of("vit", form).at(image_size), 3)
        waves = built.position.waves.double()
        assert float((torch.cdist(waves, waves) + torch.eye(len(waves))).min()) > 0.05


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("pos_embed", (1, 15, 8), "16 rows"),
        ("position.embedding", (17, 8), "16 rows"),
        ("blocks.0.position.rows", (5, 4), "4 rows"),
        ("position.offsets.relative_position_bias_table", (48, 2), "49 rows"),
    ],
)
def test_a_table_of_another_grid_is_refused(name: str, shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} has shape .*grid of 4 x 4 patches: expected {expected}"):
        resized_positions({name: torch.zeros(shape)}, old_grid=OLD, new_grid=NEW)


def test_names_that_only_end_alike_are_left_alone() -> None:
    state = {"composition.rows": torch.zeros(3, 3), "decoder_pos_embed": torch.zeros(1, 3, 3)}
    assert resized_positions(state, old_grid=OLD, new_grid=NEW) == state


@pytest.mark.parametrize("form", ["", "sin2d", "rotary", "nopos"])
def test_what_has_no_table_to_resize_sees_the_same_range_on_larger_images(form: str) -> None:
    layout = layout_of("vit", form)
    larger = layout.at(32)
    assert (larger.grid_size, larger.original_grid, larger.designed_grid) == (NEW, OLD, OLD)
    assert (layout.grid_size, layout.original_grid, layout.designed_grid) == (OLD, OLD, None)
    built = build_vit(larger, 3)
    for layer in built.modules():
        if hasattr(layer, "waves"):
            own = build_vit(layout_of("vit", form, 32), 3)
            assert not torch.equal(layer.waves, own.position.waves)  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("family", ["vit", "hybrid"])
@pytest.mark.parametrize("form", ["", "cls", "relquery", "relbias-shared"])
def test_a_layout_at_another_size_is_the_same_network(family: str, form: str) -> None:
    layout = layout_of(family, form)
    assert layout.at(16) == layout
    assert layout.at(32).at(48).at(16) == layout
    larger = layout.at(32)
    sizes = ("width", "depth", "num_heads", "mlp_width", "form")
    assert [getattr(larger, name) for name in sizes] == [getattr(layout, name) for name in sizes]
    assert larger.feature_flops().total > 4 * layout.feature_flops().total
    shapes, larger_shapes = (
        {name: tensor.shape for name, tensor in network_of(each).state_dict().items()} for each in (layout, larger)
    )
    assert list(shapes) == list(larger_shapes)
    differing = {name for name in shapes if shapes[name] != larger_shapes[name]}
    assert all("pos" in name for name in differing)
    with pytest.raises(ValueError, match=r"image size 30 px: .* 4 px wide; expected a multiple of that"):
        layout.at(30)


def test_a_hybrid_with_a_reducing_stem_counts_its_whole_stride() -> None:
    layout = hybrid_layout(TIERS["small"], "", 224, 3)
    assert layout.stages.total_stride == 16
    assert layout.at(384).grid_size == 24
    with torch.device("meta"):
        network = build_hybrid(layout.at(384), 2)
        assert network(torch.empty(2, 3, 384, 384)).shape == (2, 2)
