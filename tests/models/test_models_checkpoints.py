"""Files of weights: read whole, or refused where they are damaged, too large or no weights."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from weight_files import NETWORK, STATE, digest_beside, legacy, same

from models import ImageClassifier, Origin, WeightsError, build_network, classifier_checkpoint, read_weights


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".tar"])
@pytest.mark.parametrize("save", [torch.save, legacy], ids=["zip", "legacy"])
def test_torch_files_are_read(tmp_path: Path, suffix: str, save: Callable[[object, Path], None]) -> None:
    path = tmp_path / f"weights{suffix}"
    save(STATE, path)
    found = read_weights(path)
    assert same(found.state)
    assert found.origin is None
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    assert same(read_weights(tmp_path / "weights.safetensors").state)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "epoch": 3},
        {"model": OrderedDict(STATE), "args": argparse.Namespace(lr=0.1, model="vit")},
        {"state_dict": {}, "state_dict_ema": STATE},
        {"model": {"module.body.weight": STATE["body.weight"], "count": STATE["count"]}},
        {"_orig_mod.body.weight": nn.Parameter(STATE["body.weight"]), "_orig_mod.count": STATE["count"]},
    ],
    ids=["state_dict", "timm", "average", "wrapped", "compiled"],
)
def test_the_state_dictionary_is_found(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    found = read_weights(tmp_path / "weights.pt").state
    assert same(found)
    assert not any(tensor.requires_grad for tensor in found.values())


def test_what_this_package_keeps_says_what_it_is(tmp_path: Path) -> None:
    state = build_network(**NETWORK, num_classes=4).state_dict()
    torch.save(classifier_checkpoint(state, **NETWORK, num_classes=4), tmp_path / "kept.pt")
    digest_beside(tmp_path / "kept.pt")
    found = read_weights(tmp_path / "kept.pt")
    assert found.origin == Origin("vit", "nano", 16, 1, 16)
    assert same(found.state, state)
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "kept.pt", weights_only=True)
    assert same(loaded.network.state_dict(), state)


def test_a_lightning_checkpoint_of_another_module_is_of_no_known_network(tmp_path: Path) -> None:
    content = {"state_dict": {f"network.{name}": tensor for name, tensor in STATE.items()}}
    for said in ({}, {"family": "vit"}, {"family": 3, "variant": "nano", "image_size": 16, "in_channels": 1}):
        torch.save(content | {"hyper_parameters": said}, tmp_path / "other.ckpt")
        assert read_weights(tmp_path / "other.ckpt").origin is None


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("image_size", True, "True"),
        ("image_size", 0, "0"),
        ("image_size", -16, "-16"),
        ("image_size", "16", "'16'"),
        ("image_size", 2**100, "a number of 101 bits"),
        ("in_channels", 1.5, "1.5"),
        ("in_channels", None, "None"),
        ("designed_for", 0, "0"),
        ("designed_for", [16], "a list"),
    ],
)
def test_sizes_that_no_image_has_are_refused_with_file_and_field(
    tmp_path: Path, field: str, value: object, said: str
) -> None:
    content = classifier_checkpoint(STATE, **NETWORK, num_classes=4)
    content["hyper_parameters"][field] = value
    torch.save(content, tmp_path / "kept.pt")
    with pytest.raises(
        WeightsError, match=rf"kept\.pt: its hyper_parameters\.{field} is {said}; expected a whole number"
    ):
        read_weights(tmp_path / "kept.pt")


def test_a_file_that_is_not_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(STATE, path)
    digest = digest_beside(path)
    assert same(read_weights(path, sha256=digest).state)
    with pytest.raises(WeightsError, match=r"its SHA-256 is .*, the one asked for is 0000"):
        read_weights(path, sha256="0" * 64)
    beside = tmp_path / "weights.pt.sha256"
    for content in (b"", b"0" * 64, b"\xff\xfe"):
        beside.write_bytes(content)
        with pytest.raises(WeightsError, match=r"weights.pt.sha256"):
            read_weights(path, sha256=digest)
    beside.write_text(f"{digest}  weights.pt\n")  # as sha256sum writes it
    assert same(read_weights(path).state)


def flipped(content: bytes, data: st.DataObject) -> bytes:
    """The same bytes but for one bit."""
    changed = bytearray(content)
    changed[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    return bytes(changed)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_flipped_bit_is_found_by_the_checksum(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(STATE, path) if suffix == ".safetensors" else torch.save(STATE, path)
    digest_beside(path)
    whole = path.read_bytes()

    @settings(max_examples=30, deadline=None)
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        path.write_bytes(flipped(whole, data))
        with pytest.raises(WeightsError, match=f"the one in weights{suffix}.sha256"):
            read_weights(path)

    holds()


def test_without_a_checksum_a_flipped_bit_changes_no_weight_unseen(tmp_path: Path) -> None:
    """An archive of torch carries a CRC-32 of each of its parts."""
    path = tmp_path / "weights.pt"
    torch.save(STATE, path)
    whole = path.read_bytes()

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        path.write_bytes(flipped(whole, data))
        with contextlib.suppress(WeightsError):
            assert same(read_weights(path).state)

    holds()


@pytest.mark.parametrize("save", [torch.save, legacy, save_file], ids=["zip", "legacy", "safetensors"])
def test_cut_files_are_refused(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    path = tmp_path / ("weights.safetensors" if save is save_file else "weights.pt")
    save(STATE, path)
    whole = path.read_bytes()
    for length in (0, 1, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="damaged"):
            read_weights(path)


def test_larger_files_than_asked_for_are_refused_unread(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(100_000)}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="more than the 1,000 that"):
        read_weights(tmp_path / "weights.pt", largest_bytes=1000)


def test_the_size_is_asked_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "noise.pt").write_bytes(b"no checkpoint at all" * 100)
    with pytest.raises(WeightsError, match="holds 2,000 bytes, more than the 1,000 that"):
        read_weights(tmp_path / "noise.pt", largest_bytes=1000)
    with pytest.raises(WeightsError, match="is damaged or no checkpoint"):
        read_weights(tmp_path / "noise.pt", largest_bytes=2000)


def test_an_archive_that_inflates_is_refused(tmp_path: Path) -> None:
    plain = io.BytesIO()
    torch.save({"weight": torch.zeros(1_000_000)}, plain)
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for part in source.infolist():
            bomb.writestr(part.filename, source.read(part))
    assert path.stat().st_size < 20_000
    with pytest.raises(WeightsError, match=r"holds 4,0\d\d,\d\d\d bytes, more than the 20,000"):
        read_weights(path, largest_bytes=20_000)


def test_a_small_file_of_an_endless_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(10**12)}, tmp_path / "endless.pt")
    with pytest.raises(WeightsError, match=r"holds 4,000,000,000,000 bytes"):
        read_weights(tmp_path / "endless.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds no weights"),
        ({}, "holds no weights"),
        ({"epoch": 3}, "holds no weights"),
        ({"state_dict": {"weight": [1.0]}}, "holds no weights"),
        ({1: torch.zeros(1)}, "holds no weights"),
        ({"weight": torch.tensor([1.0, float("nan")])}, "weight holds numbers that are not finite"),
        ({"weight": torch.tensor([float("inf")], dtype=torch.bfloat16)}, "weight holds numbers that are not finite"),
        ({"weight": torch.zeros(2, dtype=torch.complex64)}, "weight holds torch.complex64"),
        ({"weight": torch.zeros(2, dtype=torch.float8_e4m3fn)}, "weight holds torch.float8_e4m3fn"),
        ({"weight": torch.empty(2, device="meta")}, r"weight is no plain tensor \(meta"),
        ({"weight": torch.eye(2).to_sparse()}, r"would call torch\._utils\._rebuild_sparse_tensor"),
    ],
)
def test_what_is_no_plain_weights_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "odd.pt")


def test_a_program_of_torchscript_is_refused(tmp_path: Path) -> None:
    plain = io.BytesIO()
    torch.save(STATE, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "script.pt", "w") as script:
        for part in source.infolist():
            script.writestr(part.filename, source.read(part))
        script.writestr("archive/constants.pkl", pickle.dumps(()))
    with pytest.raises(WeightsError, match=r"script\.pt: is damaged or no checkpoint of torch"):
        read_weights(tmp_path / "script.pt")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "pipe.pt")  # opening it would wait for ever
    for name, message in (
        ("none.pt", "there is no such file"),
        ("folder.pt", "no ordinary"),
        ("pipe.pt", "no ordinary"),
    ):
        with pytest.raises(WeightsError, match=message):
            read_weights(tmp_path / name)
