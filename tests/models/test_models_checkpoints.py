"""Files of weights: whole or refused, and nothing in them is run."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
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

from models import ImageClassifier, Origin, WeightsError, build_network, classifier_checkpoint, read_weights
from models.unfolded import unfolded

STATE = {"body.weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7)}
NETWORK: dict[str, Any] = {"family": "vit", "variant": "nano", "image_size": 16, "in_channels": 1}


def digest_beside(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(digest)
    return digest


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] = STATE) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


# --- what is read ----------------------------------------------------------------------------------------------


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


# --- checksums -------------------------------------------------------------------------------------------------


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


# --- code ------------------------------------------------------------------------------------------------------


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch evil",))


def raw_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("save", [torch.save, legacy, raw_pickle], ids=["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.bin"])
def test_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[object, Path], None], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (_Evil(), {"state_dict": STATE, "args": _Evil()}, {"weight": [_Evil()]}):
        save(content, tmp_path / name)
        digest_beside(tmp_path / name)  # a checksum makes no file harmless
        with pytest.raises(WeightsError, match=r"refused: reading it would call (posix|nt|os)\.system.*nothing"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "evil").exists()
    pickle.loads(pickle.dumps(_Evil()))  # and it would have: otherwise nothing was tested
    assert (tmp_path / "evil").exists()


def test_code_under_a_harmless_suffix_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw_pickle(_Evil(), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match="no safetensors file"):
        read_weights(tmp_path / "weights.safetensors")
    for name in ("weights.pkl", "weights.npz", "weights"):
        raw_pickle(_Evil(), tmp_path / name)
        with pytest.raises(WeightsError, match=r"is no checkpoint that is read here; expected \.safetensors"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "evil").exists()


def test_a_plain_pickle_of_tensors_is_called_no_checkpoint(tmp_path: Path) -> None:
    raw_pickle(STATE, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="no checkpoint of torch"):
        read_weights(tmp_path / "weights.pt")


def test_a_whole_network_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "network.pt")
    with pytest.raises(WeightsError, match=r"torch.nn.modules.linear.Linear.*save its state dictionary alone"):
        read_weights(tmp_path / "network.pt")


# --- size ------------------------------------------------------------------------------------------------------


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


# --- crafted pickles -------------------------------------------------------------------------------------------


def packed(path: Path, content: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """An archive of torch with this pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for part, data in (("a/data.pkl", content), ("a/version", b"3\n"), ("a/byteorder", b"little")):
            archive.writestr(part, data)
    return path


def named(name: str) -> bytes:
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode()


def text(letters: str) -> bytes:
    return b"X" + len(letters).to_bytes(4, "little") + letters.encode()


MANY = b"J" + (1_000).to_bytes(4, "little")
BYTES = named("builtins.bytearray") + MANY + b"\x85R"
# Each is followed to its end by torch's own unpickler.
CALLS: dict[str, tuple[bytes, str]] = {
    "counter": (named("collections.Counter") + BYTES + b"\x85R", "builtins.bytearray as torch.save never does"),
    "counter of text": (named("collections.Counter") + text("abc") + b"\x85R", "collections.Counter as"),
    "array": (BYTES, "builtins.bytearray as"),
    "codec": (named("_codecs.encode") + text("abc") + text("punycode") + b"\x86R", "_codecs.encode as"),
    "tensor": (named("torch.FloatTensor") + MANY + b"\x85R", "torch.FloatTensor"),
    "storage": (named("torch.storage.UntypedStorage") + MANY + b"\x85R", "torch.storage.UntypedStorage as"),
    "set": (named("builtins.set") + text("abc") + b"\x85R", "builtins.set as"),
    "dictionary": (named("collections.OrderedDict") + b"]" + text("ab") + b"a\x85R", "collections.OrderedDict as"),
    "size": (named("torch.Size") + named("torch.float32") + b"\x85R", "torch.Size as"),
    "device": (named("torch.device") + b"\x29\x85R", "torch.device as"),
    "any type": (named("torch._tensor._rebuild_from_type_v2") + b")R", "torch._tensor._rebuild_from_type_v2"),
    "sparse": (named("torch._utils._rebuild_sparse_tensor") + b")R", "torch._utils._rebuild_sparse_tensor"),
    "object": (named("argparse.Namespace") + MANY + b"\x85\x81", "argparse.Namespace as"),
    "numpy": (named("numpy.core.multiarray.scalar"), r"numpy\.core\.multiarray\.scalar, and"),
    "not called": (named("torch.FloatTensor"), r"torch\.FloatTensor, and"),
    "no function": (text("collections OrderedDict") + b")R", "a value of VALUE as"),
    "attributes": (
        named("collections.OrderedDict") + b")R}" + text("items") + b"K\x00sb",
        "a value of REDUCE.__setstate__",
    ),
    "no attributes": (named("argparse.Namespace") + b")\x81" + text("ab") + b"b", "a value of NEWOBJ.__setstate__"),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_no_training_saves_is_refused_by_name(tmp_path: Path, name: str) -> None:
    content, message = CALLS[name]
    path = packed(tmp_path / "weights.pt", b"\x80\x02" + content + b".")
    with pytest.raises(WeightsError, match=rf"weights\.pt: refused: reading it would call {message}.*nothing"):
        read_weights(path)


def test_texts_count_as_many_values_as_letters(tmp_path: Path) -> None:
    """Of a tuple that refers 400 times to one text, torch would write a message of 200 MB."""
    content = b"\x80\x02" + text("x" * 500_000) + b"q\x01(" + b"h\x01" * 400 + b"t."
    with pytest.raises(WeightsError, match="its pickle nests values"):
        read_weights(packed(tmp_path / "weights.pt", content))
    assert unfolded(io.BytesIO(content)).values == 2 + 401 * 500_000 - 500_000


def test_numbers_beyond_64_bits_count_as_many_values(tmp_path: Path) -> None:
    """Whoever makes n of them share one hash makes a dictionary of them take n^2 steps."""
    keys = {2**61 * 2**20 * place + place * 2**21: None for place in range(20_000)}
    torch.save(keys, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="its pickle nests values"):
        read_weights(tmp_path / "weights.pt")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "weights.pt", b"\x80\x02" + b"]" * 1_000_000, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"refused: its part 'a/data\.pkl' is compressed"):
        read_weights(path)


def test_too_many_operations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.unfolded.MOST_OPERATIONS", 10_000)
    path = packed(tmp_path / "weights.pt", b"\x80\x02" + b"]" * 9_998 + b".")
    with pytest.raises(WeightsError, match="holds no weights"):
        read_weights(path)
    path = packed(tmp_path / "weights.pt", b"\x80\x02" + b"]" * 9_999 + b".")
    with pytest.raises(WeightsError, match=r"more than 1,048,576 operations"):
        read_weights(path)


def test_a_large_pickle_is_refused_unread(tmp_path: Path) -> None:
    path = packed(tmp_path / "weights.pt", b"\x80\x02" + b"." * 2**24)
    with pytest.raises(WeightsError, match=r"refused: its pickle has 16,777,218 bytes, expected at most 16,777,216"):
        read_weights(path)


def test_a_pickle_that_goes_on_in_another_protocol_is_not_read_on(tmp_path: Path) -> None:
    content = b"\x80\x04\x95" + bytes(8) + BYTES + b"."
    with pytest.raises(WeightsError, match="its pickle cannot be read"):
        read_weights(packed(tmp_path / "weights.pt", content))


def test_parts_that_overlap_are_refused(tmp_path: Path) -> None:
    """Ten parts of the directory that are one in the file."""
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"." * 1000)
        archive.filelist *= 10
    with pytest.raises(WeightsError, match="is damaged: its parts overlap"):
        read_weights(path)


@pytest.mark.parametrize("save", [torch.save, legacy], ids=["zip", "legacy"])
def test_a_view_of_more_numbers_than_the_file_holds_is_refused(
    tmp_path: Path, save: Callable[[object, Path], None]
) -> None:
    save({"weight": torch.zeros(1).expand(2)}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"weight is a view of 2 numbers on the 4 bytes in the file.*contiguous"):
        read_weights(tmp_path / "weights.pt")


def test_storages_that_the_file_cannot_hold_are_refused(tmp_path: Path) -> None:
    plain = io.BytesIO()
    torch.save({"weight": torch.zeros(5000)}, plain, _use_new_zipfile_serialization=False)
    path = tmp_path / "weights.pt"
    path.write_bytes(plain.getvalue().replace(b"M\x88\x13", b"M\x88\xf3"))
    with pytest.raises(WeightsError, match=r"it names 62,344 bytes of tensors and has 20,\d\d\d"):
        read_weights(path)


def test_what_trainings_of_lightning_and_torch_save_is_read(tmp_path: Path) -> None:
    """Schedules count their milestones, two names share a tensor, and settings are a namespace."""
    layer = nn.Linear(2, 2)
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9), [2, 2, 5]
    )
    state = nn.Sequential(layer, layer).state_dict()
    saved = {
        "state_dict": state,
        "hyper_parameters": argparse.Namespace(lr=0.1, large=2**100, raw=b"abc\xff", path="x"),
        "lr_schedulers": [schedule.state_dict()],
        "device": torch.device("cuda", 0),
        "type": torch.bfloat16,
        "size": torch.Size((2, 3)),
        "seen": {1, "a"},
        "number": 1j,
        "empty": [bytearray(), set(), OrderedDict(), nn.Parameter(torch.zeros(2))],
    }
    for save in (torch.save, legacy):
        save(saved, tmp_path / "weights.ckpt")
        assert same(read_weights(tmp_path / "weights.ckpt").state, state)


# --- what is no weights ----------------------------------------------------------------------------------------


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
