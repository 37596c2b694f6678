"""Position embeddings by their properties: parameters, symmetries, what is shared, what is decayed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from models.optimizer import build_optimizer
from models.position import AddedPosition, AxialPosition, build_position, patch_places, sinusoids
from models.positioned import PositionedTransformer, TellsPosition
from models.registry import build_network, variants
from models.tiers import TIERS, split_variant
from models.transformer_form import PositionKind, PositionSite, TransformerForm, form_names, parse_form, why_not_form
from models.vit import build_vit, vit_layout

IMAGE_SIZE, PATCH_SIZE, GRID, WIDTH, HEADS, DEPTH = 16, 4, 4, 32, 2, 3  # the nano tier at 16 px
IMAGES = {"image_size": IMAGE_SIZE, "in_channels": 1, "num_classes": 3}
PLACES = [name for name in form_names() if "cls" not in name and "regularized" not in name]


def network(form: str = "", family: str = "vit", *, random_head: bool = True) -> nn.Module:
    """A nano network in float64 with sharp attention and large tables and classifier, so that everything shows."""
    torch.manual_seed(0)
    built = build_network(family, f"nano-{form}".removesuffix("-"), **IMAGES).double()
    if random_head:
        with torch.no_grad():
            for name, parameter in built.named_parameters():
                if "position" in name or name.startswith(("head", "pos_embed", "cls_token")):
                    parameter.normal_()
                if name.endswith("qkv.weight"):
                    parameter.mul_(10)
    return built.eval()


def images(number: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, 1, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64)


def shuffled(pictures: torch.Tensor) -> torch.Tensor:
    """The same images with their patches in another order."""
    patches = F.unfold(pictures, PATCH_SIZE, stride=PATCH_SIZE)
    order = torch.randperm(GRID**2, generator=torch.Generator().manual_seed(2))
    return F.fold(patches[..., order], IMAGE_SIZE, PATCH_SIZE, stride=PATCH_SIZE)


# --- forms -----------------------------------------------------------------------------------------------------------


def test_every_form_is_read_as_it_is_written() -> None:
    assert len(form_names()) == len(set(form_names())) == 63
    assert len(PLACES) == 15
    for name in ("", *form_names()):
        assert parse_form(name).name == name
    assert set(form_names()) == {split_variant(variant)[1] for variant in variants("vit")} - {""}


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("nopos-every", "without a position embedding there is nothing to place"),
        ("nopos-shared-cls", "without a position embedding there is nothing to place"),
        ("sin2d-shared", "sinusoids are fixed"),
        ("rotary-every", "acts in every layer by nature"),
        ("rotary-shared", "no parameters to share"),
        ("relbias-every", "in every layer by nature: leave the site out, or write 'shared'"),
        ("relquery-every", "in every layer by nature"),
        ("cls-every", "'every' is not a part of a form at this place; a form is written [position][-site]"),
        ("regularized-cls", "'cls' is not a part"),
        ("learned3d", "position one of nopos, learned2d, sin1d, sin2d, relbias, relquery, rotary"),
        ("stem", "'stem' is not a part"),
    ],
)
@pytest.mark.parametrize("family", ["vit", "hybrid"])
def test_what_does_not_go_together_is_refused_with_the_reason(family: str, form: str, said: str) -> None:
    assert said in str(why_not_form(form))
    with pytest.raises(ValueError, match=f"family '{family}' has no variant 'nano-{form}'") as refused:
        build_network(family, f"nano-{form}", **IMAGES)
    assert said in str(refused.value)


def test_attention_is_not_told_at_a_stem() -> None:
    for kind in PositionKind:
        if kind.in_attention:
            with pytest.raises(ValueError, match="which a stem does not have"):
                TransformerForm(kind, PositionSite.STEM)


@pytest.mark.parametrize(
    ("kind", "width", "said"),
    [
        (PositionKind.LEARNED_2D, 7, "an even width"),
        (PositionKind.SINUSOIDAL_1D, 7, "a multiple of 2"),
        (PositionKind.SINUSOIDAL_2D, 10, "a multiple of 4"),
        (PositionKind.ROTARY, 12, "heads of width 6: .* a multiple of 4"),
    ],
)
def test_widths_that_cannot_be_divided_are_refused(kind: PositionKind, width: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_position(kind, grid=2, original_grid=2, width=width, num_heads=2, num_prefix_tokens=0)


# --- parameters ------------------------------------------------------------------------------------------------------

TABLES = {
    "": GRID**2 * WIDTH,
    "nopos": 0,
    "learned2d": 2 * GRID * WIDTH // 2,
    "sin1d": 0,
    "sin2d": 0,
    "relbias": (2 * GRID - 1) ** 2 * HEADS,
    "relquery": (2 * GRID**2 - 1) * WIDTH // HEADS,
    "rotary": 0,
}


@pytest.mark.parametrize("form", ["", *PLACES])
@pytest.mark.parametrize("pooling", ["", "cls"])
def test_parameters_are_those_of_the_formula(form: str, pooling: str) -> None:
    parsed = parse_form(form)
    name = "-".join(part for part in (form, pooling) if part)
    layout = vit_layout(TIERS["nano"], name, IMAGE_SIZE, 1)
    tables = DEPTH if parsed.site is PositionSite.EVERY else 1
    block = 4 * WIDTH**2 + 4 * WIDTH + 4 * WIDTH + 2 * WIDTH * layout.mlp_width + layout.mlp_width + WIDTH
    rest = (PATCH_SIZE**2 + 1) * WIDTH + DEPTH * block + 2 * WIDTH + 3 * (WIDTH + 1) + bool(pooling) * WIDTH
    expected = rest + tables * TABLES["" if parsed.position is PositionKind.LEARNED_1D else parsed.position.value]
    assert sum(parameter.numel() for parameter in network(name).parameters()) == expected


@pytest.mark.parametrize("form", [name for name in form_names() if "shared" in name and "regularized" not in name])
@pytest.mark.parametrize("family", ["vit", "hybrid"])
def test_shared_sites_share_their_parameters(family: str, form: str) -> None:
    built = network(form, family)
    users = [layer.places for layer in built.modules() if isinstance(layer, TellsPosition)]
    assert len(users) == len(built.blocks) >= 2  # type: ignore[arg-type]
    addresses = [[parameter.data_ptr() for parameter in user.parameters()] for user in users]
    assert all(found == addresses[0] for found in addresses)
    tables = [name for name in built.state_dict() if "position" in name.split(".")]
    assert tables == [f"position.{name}" for name, _ in users[0].named_parameters()]
    twin = copy.deepcopy(built)
    assert twin.blocks[0].attn is not built.blocks[0].attn  # type: ignore[index, union-attr]
    own = [parameter.data_ptr() for parameter in twin.position.parameters()]  # type: ignore[union-attr]
    assert own != addresses[0]
    assert all(
        [parameter.data_ptr() for parameter in layer.places.parameters()] == own
        for layer in twin.modules()
        if isinstance(layer, TellsPosition)
    )


@pytest.mark.parametrize("form", ["every", "learned2d-every", "relbias", "relquery"])
def test_own_tables_differ_from_layer_to_layer(form: str) -> None:
    tables = [parameter for name, parameter in network(form).named_parameters() if "position" in name.split(".")]
    assert len(tables) == DEPTH * (2 if "2d" in form else 1)
    assert len({parameter.data_ptr() for parameter in tables}) == len(tables)


@pytest.mark.parametrize("form", ["", *PLACES, "cls", "learned2d-cls"])
def test_all_tables_start_alike_and_are_not_decayed(form: str) -> None:
    torch.manual_seed(0)
    layout = vit_layout(TIERS["tiny"], form, 32, 3)
    built = build_vit(layout, 3)
    tables = {
        name: parameter
        for name, parameter in built.named_parameters()
        if name == "pos_embed" or "position" in name.split(".")
    }
    kind = parse_form(form).position
    assert bool(tables) == (TABLES["" if kind is PositionKind.LEARNED_1D else kind.value] > 0)
    for table in tables.values():
        assert 0.018 < float(table.detach().std()) < 0.022
        assert abs(float(table.detach().mean())) < 0.003
    decayed = [group for group in build_optimizer(built, 1e-3, 0.1).param_groups if group["weight_decay"] > 0]
    addresses = {parameter.data_ptr() for group in decayed for parameter in group["params"]}
    assert addresses
    assert not addresses & {table.data_ptr() for table in tables.values()}
    assert all(
        name.endswith("weight") for name, parameter in built.named_parameters() if parameter.data_ptr() in addresses
    )


# --- symmetries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["", *form_names()])
def test_only_the_form_without_positions_is_blind_to_the_order_of_patches(form: str) -> None:
    built = network(form)
    with torch.no_grad():
        plain, moved = built(images()), built(shuffled(images()))
    change = float((plain - moved).abs().max())
    assert float(plain.std()) > 0.1
    if "nopos" in form:
        assert change < 1e-12
    else:
        assert change > 1e-3


def logits_of(kind: PositionKind, queries: torch.Tensor, keys: torch.Tensor, grid: int = GRID) -> torch.Tensor:
    """Logits of attention ``[B, heads, T, T]`` after positions have been told, with a table far from zero."""
    torch.manual_seed(3)
    position: Any = build_position(
        kind, grid=grid, original_grid=grid, width=WIDTH, num_heads=HEADS, num_prefix_tokens=0
    )
    for parameter in position.double().parameters():
        nn.init.normal_(parameter)
    queries, keys, logits = position(queries, keys)
    content = queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
    return content if logits is None else content + logits


@pytest.mark.parametrize("kind", [kind for kind in PositionKind if kind.in_attention])
def test_relative_kinds_depend_on_offsets_only(kind: PositionKind) -> None:
    """The same content at all places: moving query and key together changes nothing, moving one of them does."""
    generator = torch.Generator().manual_seed(4)
    content = [torch.randn(1, HEADS, 1, WIDTH // HEADS, generator=generator, dtype=torch.float64) for _ in range(2)]
    queries, keys = (part.expand(-1, -1, GRID**2, -1) for part in content)
    logits = logits_of(kind, queries, keys).detach().reshape(HEADS, GRID, GRID, GRID, GRID)
    for row, column in ((1, 0), (0, 1), (1, 1), (2, 1)):
        inside = logits[:, row:, column:, row:, column:]
        before = logits[:, : GRID - row, : GRID - column, : GRID - row, : GRID - column]
        torch.testing.assert_close(inside, before, rtol=0, atol=1e-5)  # the angles are rounded to float32
    assert float((logits[:, 0, 0, 0, 1:] - logits[:, 0, 0, 0, :-1]).abs().min()) > 1e-3
    assert float((logits[:, 0, 0, 1:, 0] - logits[:, 0, 0, :-1, 0]).abs().min()) > 1e-3


def test_raster_offsets_cannot_tell_the_end_of_a_row() -> None:
    """Why the paper's relative attention is one-dimensional: patch 4 is one step behind patch 3, a row below it."""
    content = torch.ones(1, HEADS, GRID**2, WIDTH // HEADS, dtype=torch.float64)
    for kind, alike in ((PositionKind.RELATIVE_QUERY, True), (PositionKind.RELATIVE_BIAS, False)):
        logits = logits_of(kind, content, content).detach()
        difference = float((logits[..., 2, 3] - logits[..., 3, 4]).abs().max())
        assert (difference < 1e-12) is alike


def test_relative_queries_are_the_sum_over_offsets() -> None:
    """Against the definition, pair by pair."""
    generator = torch.Generator().manual_seed(5)
    queries, keys = torch.randn(2, 2, HEADS, 4, WIDTH // HEADS, generator=generator, dtype=torch.float64)
    torch.manual_seed(3)
    position: Any = build_position(
        PositionKind.RELATIVE_QUERY, grid=2, original_grid=2, width=WIDTH, num_heads=HEADS, num_prefix_tokens=0
    )
    position.double()
    logits = position(queries, keys)[2]
    for query in range(4):
        for key in range(4):
            offset_key = position.offset_keys[key - query + 3]
            expected = (queries[:, :, query] * offset_key).sum(-1) * (WIDTH // HEADS) ** -0.5
            torch.testing.assert_close(logits[:, :, query, key], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in PositionKind if kind.in_attention])
def test_no_offset_leads_to_a_class_token(kind: PositionKind) -> None:
    generator = torch.Generator().manual_seed(6)
    queries, keys = torch.randn(2, 2, HEADS, GRID**2 + 1, WIDTH // HEADS, generator=generator, dtype=torch.float64)
    options: dict[str, Any] = {"grid": GRID, "original_grid": GRID, "width": WIDTH, "num_heads": HEADS}
    torch.manual_seed(3)
    behind: Any = build_position(kind, num_prefix_tokens=1, **options)
    torch.manual_seed(3)
    alone: Any = build_position(kind, num_prefix_tokens=0, **options)
    told, expected = behind.double()(queries, keys), alone.double()(queries[:, :, 1:], keys[:, :, 1:])
    for moved, plain, raw in zip(told[:2], expected[:2], (queries, keys), strict=True):
        assert torch.equal(moved[:, :, 1:], plain)
        assert torch.equal(moved[:, :, :1], raw[:, :, :1])
    if expected[2] is not None:
        assert torch.equal(told[2][..., 1:, 1:], expected[2])
        assert not told[2][..., 0].any()
        assert not told[2][..., 0, :].any()


@pytest.mark.parametrize("form", ["learned2d", "sin1d", "sin2d", "every"])
def test_nothing_is_added_to_a_class_token(form: str) -> None:
    built = network(f"{form}-cls")
    position: Any = next(layer for layer in built.modules() if isinstance(layer, AddedPosition))
    tokens = torch.zeros(2, GRID**2 + 1, WIDTH, dtype=torch.float64)
    added = position(tokens)
    assert not added[:, 0].any()
    assert torch.equal(added[0, 1:], position.table())


# --- what the kinds are ----------------------------------------------------------------------------------------------


def test_rows_and_columns_have_a_half_each() -> None:
    position = AxialPosition(GRID, WIDTH, 0)
    table = position.table().view(GRID, GRID, WIDTH)
    for row in range(GRID):
        for column in range(GRID):
            assert torch.equal(table[row, column], torch.cat([position.rows[row], position.columns[column]]))


def test_sinusoids_are_those_of_the_paper() -> None:
    waves = sinusoids(torch.tensor([0.0, 1.0, 7.0], dtype=torch.float64), 6)
    for place, wave in zip((0.0, 1.0, 7.0), waves, strict=True):
        angles = torch.tensor([place / 10_000 ** (2 * i / 6) for i in range(3)], dtype=torch.float64)
        torch.testing.assert_close(wave[0::2], angles.sin(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(wave[1::2], angles.cos(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_place_of_the_image_keeps_its_sinusoid_on_a_finer_grid(dimensions: int) -> None:
    """Three times as many patches along a side: every third new centre, from the second on, is an old one."""
    kind = PositionKind.SINUSOIDAL_1D if dimensions == 1 else PositionKind.SINUSOIDAL_2D
    options: dict[str, Any] = {"width": WIDTH, "num_heads": HEADS, "num_prefix_tokens": 0}
    old: Any = build_position(kind, grid=GRID, original_grid=GRID, **options)
    new: Any = build_position(kind, grid=3 * GRID, original_grid=GRID, **options)
    finer = new.table().view(3 * GRID, 3 * GRID, WIDTH)[1::3, 1::3]
    torch.testing.assert_close(finer, old.table().view(GRID, GRID, WIDTH), rtol=0, atol=1e-6)


def test_rotation_counts_offsets_in_steps_of_the_original_grid() -> None:
    generator = torch.Generator().manual_seed(7)
    content = torch.randn(1, HEADS, 1, WIDTH // HEADS, generator=generator)
    options: dict[str, Any] = {"width": WIDTH, "num_heads": HEADS, "num_prefix_tokens": 0}
    logits = []
    for grid in (GRID, 2 * GRID):
        position: Any = build_position(PositionKind.ROTARY, grid=grid, original_grid=GRID, **options)
        queries, keys, _ = position(*(content.expand(-1, -1, grid**2, -1),) * 2)
        logits.append((queries @ keys.transpose(-2, -1)).view(HEADS, grid, grid, grid, grid))
    torch.testing.assert_close(logits[1][:, 0, 0, ::2, ::2], logits[0][:, 0, 0], rtol=0, atol=1e-4)


def test_places_of_the_original_grid_are_whole_numbers() -> None:
    assert patch_places(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert patch_places(4, 2).tolist() == [-0.25, 0.25, 0.75, 1.25]


# --- pooling and regularisation --------------------------------------------------------------------------------------


def test_a_class_token_changes_what_is_read_and_nothing_else() -> None:
    average, token = network(""), network("cls")
    for built in (average, token):
        assert type(built) is VisionTransformer
        assert isinstance(built.norm, nn.LayerNorm)
        assert isinstance(built.fc_norm, nn.Identity)
    assert set(token.state_dict()) == set(average.state_dict()) | {"cls_token"}
    assert token.pos_embed.shape == average.pos_embed.shape  # type: ignore[union-attr]
    features = token.forward_features(images())  # type: ignore[operator]
    assert torch.equal(token(images()), token.head(features[:, 0]))  # type: ignore[operator]
    features = average.forward_features(images())  # type: ignore[operator]
    assert torch.equal(average(images()), average.head(features.mean(dim=1)))  # type: ignore[operator]


@pytest.mark.parametrize("form", ["regularized", "nopos-regularized", "relbias-cls-regularized", "every-regularized"])
def test_regularised_forms_drop_out_at_the_same_places(form: str) -> None:
    built = network(form)
    rates = {name: layer.p for name, layer in built.named_modules() if isinstance(layer, nn.Dropout)}
    expected = {"pos_drop": 0.1}
    for block in range(DEPTH):
        expected |= {f"blocks.{block}.{name}": 0.1 for name in ("attn.proj_drop", "mlp.drop1", "mlp.drop2")}
    assert {name: rate for name, rate in rates.items() if rate > 0} == expected
    depths = [getattr(block.drop_path1, "drop_prob", 0.0) for block in built.blocks]  # type: ignore[union-attr]
    assert depths == pytest.approx([0.0, 0.05, 0.1])
    quiet = built(images())
    assert torch.equal(quiet, built(images()))
    torch.manual_seed(0)
    assert not torch.allclose(built.train()(images()), quiet)


def test_tokens_are_dropped_after_the_stem_without_positions_too() -> None:
    built = network("nopos-regularized").train()
    torch.manual_seed(0)
    tokens = built._pos_embed(built.patch_embed(images()))  # type: ignore[operator]
    assert 0.05 < float((tokens == 0).double().mean()) < 0.15


# --- the plain networks ----------------------------------------------------------------------------------------------


def test_forms_that_timm_has_are_timms() -> None:
    for form in ("", "nopos", "cls", "nopos-cls", "regularized", "cls-regularized"):
        assert type(network(form)) is VisionTransformer
    assert type(network("sin1d")) is PositionedTransformer


def test_attention_that_knows_places_takes_no_mask() -> None:
    attention: Any = network("rotary").blocks[0].attn  # type: ignore[index, union-attr]
    with pytest.raises(ValueError, match="takes no mask"):
        attention(torch.zeros(1, GRID**2, WIDTH, dtype=torch.float64), is_causal=True)
