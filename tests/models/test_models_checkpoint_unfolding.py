"""Small files whose values would not end are refused unread, and what trainings save is far from that."""

from __future__ import annotations

import argparse
import io
import itertools
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from weight_files import STATE, legacy, same

from models import WeightsError, build_network, read_weights
from models.unfolded import unfolded


def shared(levels: int, make: Callable[..., object] = lambda *parts: parts) -> object:
    """A value of 2^levels parts in a few bytes each level."""
    value: object = make()
    for _ in range(levels):
        value = make(value, value)
    return value


def nested(levels: int) -> object:
    value: object = ()
    for _ in range(levels):
        value = (value,)
    return value


# Doubled 24 times, the key would be hashed within a second, and the file then refused for something else.
UNFOLDING: dict[str, Callable[[], object]] = {
    "key": lambda: {"state_dict": STATE, "args": {shared(24): 1}},
    "lists": lambda: {"state_dict": STATE, "args": shared(24, lambda *parts: list(parts))},
    "many of a few": lambda: {"state_dict": STATE, "args": [shared(18)] * 64},
    "deep": lambda: {"state_dict": STATE, "args": {nested(250): 1}},
}


@pytest.mark.parametrize("save", [torch.save, legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", UNFOLDING)
def test_values_that_share_each_other_without_end_are_refused_unread(
    tmp_path: Path, save: Callable[[object, Path], None], name: str
) -> None:
    save(UNFOLDING[name](), tmp_path / "weights.pt")
    assert (tmp_path / "weights.pt").stat().st_size < 20_000
    with pytest.raises(WeightsError, match=r"weights\.pt: refused: its pickle nests values .* 16,777,216.* not loaded"):
        read_weights(tmp_path / "weights.pt")


def test_a_list_that_is_filled_after_it_was_shared_counts_whole(tmp_path: Path) -> None:
    levels: list[list[object]] = [[] for _ in range(30)]
    for lower, upper in itertools.pairwise(levels):
        upper += [lower, lower]
    torch.save({"state_dict": STATE, "args": levels[::-1]}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="its pickle nests values"):
        read_weights(tmp_path / "weights.pt")


def test_a_list_that_holds_itself_is_refused(tmp_path: Path) -> None:
    endless: list[object] = []
    endless.append(endless)
    torch.save({"state_dict": STATE, "args": endless}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="its pickle nests values"):
        read_weights(tmp_path / "weights.pt")


def test_what_trainings_save_is_far_from_the_limits(tmp_path: Path) -> None:
    """With the state of an optimiser, numbers of all kinds, shared tensors and keys that are tuples."""
    network = build_network("vit", "nano", image_size=16, in_channels=1, num_classes=4)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.zeros(2, 1, 16, 16)).sum().backward()
    optimizer.step()
    saved = {
        "state_dict": network.state_dict(),
        "state_dict_ema": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.95), best={("val", 1): 0.5}, seen={1, 2}),
        "rng": torch.get_rng_state(),
        "bytes": bytearray(b"abc"),
    }
    for save in (torch.save, legacy):
        save(saved, tmp_path / "weights.pt")
        assert same(read_weights(tmp_path / "weights.pt").state, network.state_dict())
    torch.save(saved, tmp_path / "weights.pt")
    with zipfile.ZipFile(tmp_path / "weights.pt") as archive:
        size = unfolded(archive.open("weights/data.pkl"))
    assert 5_000 < size.values < 2**24 / 100
    assert 3 < size.depth < 20


def test_the_size_of_a_pickle_is_that_of_its_values_written_out() -> None:
    pair = (1, 2)
    for content, values, depth in (
        (5, 1, 1),
        (pair, 1 + 3, 2),
        ([pair, pair], 1 + 3 + 7, 3),
        ({"a": pair}, 1 + 3 + 5, 3),
        ((), 1 + 1, 1),
    ):
        found = unfolded(io.BytesIO(pickle.dumps(content, protocol=2)))
        assert (found.values, found.depth) == (values, depth), content
