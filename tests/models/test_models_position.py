"""Position embeddings by their definitions: offsets, halves, waves, rotations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nano_transformers import GRID, HEADS, WIDTH
from torch import nn

from models.position import AxialPosition, build_position, patch_places, sinusoids
from models.transformer_form import PositionKind


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


# --- told to attention -----------------------------------------------------------------------------------------------


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


def test_a_place_of_the_image_keeps_its_sinusoid_on_a_finer_grid() -> None:
    """Three times as many patches along a side: every third new centre, from the second on, is an old one."""
    kind = PositionKind.SINUSOIDAL_2D
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


def test_rotations_turn_by_powers_of_the_base_100() -> None:
    """Heo et al. 2403.13298: of d / 4 pairs for the row and as many for the column, pair i turns by 100^(-4i / d)."""
    position: Any = build_position(
        PositionKind.ROTARY, grid=3, original_grid=3, width=16, num_heads=2, num_prefix_tokens=0
    )
    queries = torch.zeros(1, 2, 9, 8)
    queries[..., 0::2] = 1.0
    turned, _, _ = position(queries, queries)
    angles = torch.atan2(turned[..., 1::2], turned[..., 0::2]).view(2, 3, 3, 4)
    expected = torch.tensor([[[row, row / 10, column, column / 10] for column in range(3)] for row in range(3)])
    torch.testing.assert_close(angles, expected.expand(2, -1, -1, -1), rtol=0, atol=1e-6)


def test_places_of_the_original_grid_are_whole_numbers() -> None:
    assert patch_places(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert patch_places(4, 2).tolist() == [-0.25, 0.25, 0.75, 1.25]


@pytest.mark.parametrize("kind", [PositionKind.ROTARY, PositionKind.SINUSOIDAL_1D, PositionKind.SINUSOIDAL_2D])
def test_what_is_fixed_is_no_part_of_the_weights(kind: PositionKind) -> None:
    """So that a checkpoint of one grid is one of any: nothing in it belongs to places."""
    position = build_position(kind, grid=2, original_grid=2, width=WIDTH, num_heads=HEADS, num_prefix_tokens=0)
    assert position.state_dict() == {}
    assert list(position.parameters()) == []
    assert len(list(position.buffers())) > 0


@pytest.mark.parametrize("kind", [kind for kind in PositionKind if kind.in_attention])
def test_attention_stays_in_the_precision_of_queries(kind: PositionKind) -> None:
    position: Any = build_position(kind, grid=2, original_grid=2, width=WIDTH, num_heads=HEADS, num_prefix_tokens=1)
    heads = torch.randn(1, HEADS, 5, WIDTH // HEADS, dtype=torch.bfloat16)
    assert {told.dtype for told in position(heads, heads) if told is not None} == {torch.bfloat16}
