"""Bundles: the same bytes from the same study, and no alteration goes unnoticed."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from report.synthetic import plan_of, write_study

from studies.bundle import MANIFEST, bundle_study, verify_bundle
from studies.errors import StoreError
from studies.store import Store

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    plan = plan_of()
    write_study(folder, plan, skip=1)
    report = folder / "studies" / plan.study_id / "report"
    (report / "figures").mkdir(parents=True)
    (report / "index.html").write_text("<p>the answer</p>")
    (report / "figures" / "data_curves.png").write_bytes(b"a picture")
    (folder / "cells" / plan.cells[0].id / "log.txt").write_text("not part of a bundle")
    return folder


@pytest.fixture(scope="module")
def bundle(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_study(Store(root), "data_scaling", tmp_path_factory.mktemp("bundle") / "study.tar.gz")


def members_of(path: Path) -> Members:
    with tarfile.open(path) as archive:
        return [(info, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]


def rewrite(source: Path, target: Path, change: Callable[[Members], Members]) -> Path:
    """A bundle with changed members, packed as a bundle is."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for info, content in change(members_of(source)):
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
        size = archive.offset
    target.write_bytes(stream.getvalue()[: size + 1024])
    return target


def test_a_bundle_is_whole_and_deterministic(root: Path, bundle: Path, tmp_path: Path) -> None:
    assert verify_bundle(bundle) == []
    again = bundle_study(Store(root), "data_scaling", tmp_path / "again.tar.gz")
    assert again.read_bytes() == bundle.read_bytes()
    plain = bundle_study(Store(root), "data_scaling", tmp_path / "plain.tar")
    assert verify_bundle(plain) == []
    assert plain.read_bytes() == gzip.decompress(bundle.read_bytes())
    names = [info.name for info, _ in members_of(bundle)]
    assert names[0] == MANIFEST
    assert names[1:] == sorted(names[1:])
    assert len(names) == 1 + 7 * 2 + 1 + 2
    assert not any("log.txt" in name for name in names)


def test_unpacked_it_is_a_store(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(bundle) as archive:
        archive.extractall(tmp_path, filter="data")
    store = Store(tmp_path)
    assert len(store.records(store.plan("data_scaling"))) == 7


def test_any_flipped_byte_is_noticed_unless_it_unpacks_to_the_same(bundle: Path, tmp_path: Path) -> None:
    content = bundle.read_bytes()
    generator = np.random.default_rng(0)
    positions = [*range(20), *range(len(content) - 20, len(content)), *generator.integers(0, len(content), 40).tolist()]
    target, noticed = tmp_path / "flipped.tar.gz", 0
    for position in positions:
        flipped = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        target.write_bytes(flipped)
        noticed += bool(verify_bundle(target))
        assert verify_bundle(target) or gzip.decompress(flipped) == gzip.decompress(content), position
    assert noticed >= len(positions) - 5  # a run of zeros has several encodings


def test_any_flipped_byte_of_a_plain_bundle_is_noticed(root: Path, tmp_path: Path) -> None:
    content = bundle_study(Store(root), "data_scaling", tmp_path / "plain.tar").read_bytes()
    target = tmp_path / "flipped.tar"
    positions = [0, 110, 130, 160, 260, 300, 330, 511, 520, len(content) - 1]
    positions += np.random.default_rng(1).integers(0, len(content), 40).tolist()
    for position in positions:
        target.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert verify_bundle(target), position


@pytest.mark.parametrize("suffix", [b"x", b"\0", gzip.compress(b"more")], ids=["text", "zero", "stream"])
def test_appended_bytes_and_cut_ends_are_noticed(bundle: Path, tmp_path: Path, suffix: bytes) -> None:
    target = tmp_path / "changed.tar.gz"
    target.write_bytes(bundle.read_bytes() + suffix)
    assert "something after the end" in verify_bundle(target)[0]
    target.write_bytes(bundle.read_bytes()[: -len(suffix)])
    assert "ends too early" in verify_bundle(target)[0]


def test_rewriting_without_a_change_is_fine(bundle: Path, tmp_path: Path) -> None:
    assert verify_bundle(rewrite(bundle, tmp_path / "same.tar", lambda members: members)) == []


def test_altered_missing_and_extra_members_are_named(bundle: Path, tmp_path: Path) -> None:
    def alter(members: Members) -> Members:
        return [(info, b"<p>another</p>" if info.name.endswith(".html") else content) for info, content in members]

    (problem,) = verify_bundle(rewrite(bundle, tmp_path / "altered.tar", alter))
    assert problem.endswith("report/index.html: was altered")
    (problem,) = verify_bundle(rewrite(bundle, tmp_path / "missing.tar", lambda members: members[:-1]))
    assert problem.endswith(": is missing")
    (problem,) = verify_bundle(rewrite(bundle, tmp_path / "bare.tar", lambda members: members[1:]))
    assert problem == "manifest.json: is missing"

    def add(members: Members) -> Members:
        name = members[-1][0].name.replace("index.html", "extra.md")
        return [*members, (tarfile.TarInfo(name), b"extra")]

    (problem,) = verify_bundle(rewrite(bundle, tmp_path / "extra.tar", add))
    assert problem.endswith("report/extra.md: is not in the manifest")
    problems = verify_bundle(rewrite(bundle, tmp_path / "twice.tar", lambda members: [*members, members[-1]]))
    assert problems[0].endswith("is there twice")


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "cells/../../evil/record.json", "studies/../plan.json", "a/b"]
)
def test_strange_names_are_refused_and_never_written(bundle: Path, tmp_path: Path, name: str) -> None:
    target = rewrite(bundle, tmp_path / "evil.tar", lambda members: [*members, (tarfile.TarInfo(name), b"evil")])
    problems = verify_bundle(target)
    assert f"{name}: not a name that belongs in a bundle" in problems
    assert not Path("/tmp/evil").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["evil.tar"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(bundle: Path, tmp_path: Path, kind: bytes) -> None:
    def link(members: Members) -> Members:
        info = tarfile.TarInfo(members[-1][0].name.replace("index.html", "link"))
        info.type, info.linkname = kind, "/etc/passwd"
        return [*members, (info, b"")]

    problems = verify_bundle(rewrite(bundle, tmp_path / "link.tar", link))
    assert problems[0].endswith("report/link: not a regular file")


def resum(members: Members, changes: dict[str, bytes]) -> Members:
    """Members with changed content and a manifest that agrees with them, as a careful forger would write it."""
    import hashlib

    changed = [(info, changes.get(info.name, content)) for info, content in members]
    manifest = json.loads(changed[0][1])["content"]
    for info, content in changed[1:]:
        manifest["files"][info.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(manifest, sort_keys=True, indent=1)
    digest = hashlib.sha256(text.encode()).hexdigest()
    packed = json.dumps({"content": manifest, "sha256": digest}, sort_keys=True, indent=1).encode()
    return [(changed[0][0], packed), *changed[1:]]


def first(members: Members, end: str) -> tuple[str, bytes]:
    return next((info.name, content) for info, content in members if info.name.endswith(end))


def test_contents_must_belong_together_even_if_the_sums_agree(bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)

    def problems_after(end: str, old: bytes, new: bytes) -> list[str]:
        name, content = first(members, end)
        assert old in content
        target = tmp_path / "forged.tar"
        return verify_bundle(rewrite(bundle, target, lambda found: resum(found, {name: content.replace(old, new, 1)})))

    rate = b'"learning_rate": 0.001'
    assert "checksum does not match" in problems_after("record.json", rate, rate + b"5")[0]
    assert "was altered" in problems_after("plan.json", b'"num_train": 128', b'"num_train": 129')[0]
    name, content = first(members, "predictions.npz")
    other = rewrite(bundle, tmp_path / "other.tar", lambda found: resum(found, {name: content + b"\0"}))
    (problem,) = verify_bundle(other)
    assert problem.endswith("the predictions are not those of the record")


def test_a_record_under_the_id_of_another_cell_is_noticed(bundle: Path, tmp_path: Path) -> None:
    records = [(info.name, content) for info, content in members_of(bundle) if info.name.endswith("record.json")]
    (name, _), (_, content) = records[:2]
    target = rewrite(bundle, tmp_path / "swapped.tar", lambda found: resum(found, {name: content}))
    assert "it belongs to cell" in verify_bundle(target)[0]


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    for content in (b"", b"hello", b"\x1f\x8b", gzip.compress(b"hello", mtime=0)):
        (tmp_path / "file").write_bytes(content)
        assert verify_bundle(tmp_path / "file")
    assert "cannot be read as a bundle" in verify_bundle(tmp_path / "absent")[0]


def test_damaged_predictions_are_not_packed(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "store")
    path = next((tmp_path / "store").rglob("predictions.npz"))
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(StoreError, match="is not what the record of its cell says"):
        bundle_study(Store(tmp_path / "store"), "data_scaling", tmp_path / "bundle.tar")
    assert not (tmp_path / "bundle.tar").exists()
