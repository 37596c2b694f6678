"""Networks told of positions, by their properties: parameters, what is shared, what is decayed, what is blind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from nano_transformers import DEPTH, GRID, HEADS, IMAGE_SIZE, PATCH_SIZE, PLACES, WIDTH, images, network, shuffled
from timm.models.vision_transformer import VisionTransformer

from models.optimizer import build_optimizer
from models.position import AddedPosition
from models.positioned import PositionedTransformer, TellsPosition
from models.tiers import TIERS
from models.transformer_form import PositionKind, PositionSite, form_names, parse_form
from models.vit import build_vit, vit_layout

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


@pytest.mark.parametrize("form", ["learned2d", "sin1d", "sin2d", "every"])
def test_nothing_is_added_to_a_class_token(form: str) -> None:
    built = network(f"{form}-cls")
    position: Any = next(layer for layer in built.modules() if isinstance(layer, AddedPosition))
    tokens = torch.zeros(2, GRID**2 + 1, WIDTH, dtype=torch.float64)
    added = position(tokens)
    assert not added[:, 0].any()
    assert torch.equal(added[0, 1:], position.table())


def test_forms_that_timm_has_are_timms() -> None:
    for form in ("", "nopos", "cls", "nopos-cls", "regularized", "cls-regularized"):
        assert type(network(form)) is VisionTransformer
    assert type(network("sin1d")) is PositionedTransformer


def test_attention_that_knows_places_takes_no_mask() -> None:
    attention: Any = network("rotary").blocks[0].attn  # type: ignore[index, union-attr]
    with pytest.raises(ValueError, match="takes no mask"):
        attention(torch.zeros(1, GRID**2, WIDTH, dtype=torch.float64), is_causal=True)
