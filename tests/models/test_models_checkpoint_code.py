"""Nothing that a file of weights holds is run: what it names or calls besides tensors is refused by name."""

from __future__ import annotations

import argparse
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
from torch import nn
from weight_files import STATE, digest_beside, legacy, raw_pickle, same

from models import WeightsError, read_weights
from models.unfolded import unfolded


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch evil",))


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
