"""A study in one file: plan, records, predictions and report with a manifest of SHA-256 sums, and its check.

A bundle is a tar (or tar.gz) laid out like a store, so that unpacked it is one. The same study gives the same bytes.
The sums detect damage and careless edits; they are no signature: who rewrites all of it consistently is not found out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from .cell import Cell
from .errors import StoreError, StudyError
from .few_shot_networks import frozen_networks
from .few_shot_results import EVALUATIONS, why_outdated
from .files import write_atomically
from .grid import Plan
from .kept_results import Results
from .probes.probe_results import PROBED, StatedWeights, probed_subjects
from .store import Store

FORMAT = "study-bundle-1"
MANIFEST = "manifest.json"
MAX_BYTES = 64 * 2**30  # unpacked; beyond this a bundle is refused, not read

# magic, deflate, no flags, no time, best compression, unknown system: the ten bytes of a gzip header that names nothing
_GZIP_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 255])
_MEMBER = re.compile(
    r"manifest\.json|cells/[0-9a-f]{8,64}/(record\.json|predictions\.npz)"
    r"|few_shot/[0-9a-f]{16}/result\.json|probes/[0-9a-f]{16}/(result\.json|arrays\.npz)"
    r"|studies/[\w.-]+/(plan\.json|report/([\w-][\w.-]*/)*[\w-][\w.-]*)"
)
_CHUNK = 2**20


def bundle_study(store: Store, study_id: str, output: Path) -> Path:
    """Packs a study; of its few-shot and probe results those of the weights that its records state now.

    Args:
        store: where it lies.
        study_id: its id, or its name for the plan made last.
        output: file to write, compressed if its name ends in `.gz` or `.tgz`.

    Returns:
        `output`.

    Raises:
        StoreError: there is no such study, a record or a result is damaged, or predictions do not match their record.
    """
    plan = store.plan(study_id)
    files = {name: path for stage in plan.stages for name, path in _study_files(store, stage)}
    content = {
        "format": FORMAT,
        "study_id": plan.study_id,
        "plan_hash": plan.hash,
        "cells_without_record": [
            cell.id for stage in plan.stages for cell in stage.cells if f"cells/{cell.id}/record.json" not in files
        ],
        "files": {
            name: {"bytes": path.stat().st_size, "sha256": _sum_of(_chunks_of(path))}
            for name, path in sorted(files.items())
        },
    }
    manifest = _with_sum(content)

    def members() -> Iterator[tuple[str, int, Iterable[bytes]]]:
        yield MANIFEST, len(manifest), [manifest]
        for name, path in sorted(files.items()):
            yield name, path.stat().st_size, _chunks_of(path)

    compressed = output.suffix in (".gz", ".tgz")
    write_atomically(output, lambda file: _write_tar(_Deflated(file) if compressed else file, members()))
    return output


def verify_bundle(path: Path) -> list[str]:
    """Everything that is wrong with a bundle, in words; empty if it is whole.

    Checked: unpacked, the archive is byte for byte what packing its members gives; names and kinds of members; every
    sum of the manifest; the plan's hash and the ids of its cells, computed anew; each record's own checksum, its cell's
    id and the hash of its predictions; that each few-shot and probe result belongs to the plan, is whole, and is of the
    weights that the records state. Nothing is written but to a temporary folder, and there only members with expected
    names.
    """
    with tempfile.TemporaryDirectory(prefix="study-verify-") as folder, tempfile.TemporaryFile() as tar:
        try:
            _inflate(path, tar)
            sums, problems = _unpack(tar, Path(folder))
        except (OSError, ValueError, zlib.error, tarfile.TarError) as error:
            return [f"{path} cannot be read as a bundle: {error}"]
        manifest = _read_manifest(Path(folder) / MANIFEST)
        if isinstance(manifest, str):
            return [*problems, manifest]
        problems += _compare(manifest, sums)
        if not problems:
            problems += _check_study(manifest, Store(folder))
        return problems


def _study_files(store: Store, plan: Plan) -> Iterator[tuple[str, Path]]:
    study = store.study_folder(plan.study_id)
    if (study / "plan.json").is_file():  # that of an earlier stage may have been cleaned away; the last one embeds it
        yield f"studies/{plan.study_id}/plan.json", study / "plan.json"
    for path in sorted((study / "report").rglob("*")):
        name = f"studies/{plan.study_id}/{path.relative_to(study).as_posix()}"
        if path.is_file() and _MEMBER.fullmatch(name):
            yield name, path
    for (results, result_id), outdated in _asked(plan, store).items():
        result = results.read(store, result_id)
        if result is not None and not outdated(result):
            for path in results.files(store, result):
                yield path.relative_to(store.root).as_posix(), path
    for cell in plan.cells:
        record = store.record(cell.id)
        if record is None:
            continue
        yield f"cells/{cell.id}/record.json", store.cell_folder(cell.id) / "record.json"
        if record.predictions_sha256:
            path = store.predictions_path(cell.id)
            if not path.is_file() or _sum_of(_chunks_of(path)) != record.predictions_sha256:
                raise StoreError(f"{path} is missing or is not what the record of its cell says: train the cell anew")
            yield f"cells/{cell.id}/predictions.npz", path


def _write_tar(file: Any, members: Iterable[tuple[str, int, Iterable[bytes]]]) -> None:  # noqa: ANN401 - has write()
    """A plain tar of regular files that names no owner and no time."""
    for name, size, chunks in members:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        for chunk in chunks:
            file.write(chunk)
        file.write(bytes(-size % tarfile.BLOCKSIZE))
    file.write(bytes(2 * tarfile.BLOCKSIZE))
    if isinstance(file, _Deflated):
        file.finish()


class _Deflated:
    """A gzip stream whose header names neither file nor time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._sum, self._size = file, 0, 0
        self._deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        file.write(_GZIP_HEADER)

    def write(self, data: bytes) -> None:
        self._sum, self._size = zlib.crc32(data, self._sum), self._size + len(data)
        self._file.write(self._deflate.compress(data))

    def finish(self) -> None:
        self._file.write(self._deflate.flush())
        self._file.write(self._sum.to_bytes(4, "little") + (self._size % 2**32).to_bytes(4, "little"))


class _Summed:
    """A file that keeps nothing but its SHA-256."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._digest.update(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _inflate(path: Path, tar: IO[bytes]) -> None:
    """Copies the tar inside `path` to `tar`."""
    with path.open("rb") as file:
        header = file.read(len(_GZIP_HEADER))
        file.seek(0)
        if not header.startswith(_GZIP_HEADER[:2]):
            for chunk in iter(lambda: file.read(_CHUNK), b""):
                _write_bounded(tar, chunk)
            return
        if header != _GZIP_HEADER:
            raise ValueError("its gzip header is not that of a bundle")
        inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            while chunk and not inflate.eof:
                _write_bounded(tar, inflate.decompress(chunk, _CHUNK))
                chunk = inflate.unconsumed_tail
            if inflate.eof and (inflate.unused_data or file.read(1)):
                raise ValueError("there is something after the end of the archive")
        if not inflate.eof:
            raise ValueError("the archive ends too early")


def _write_bounded(tar: IO[bytes], chunk: bytes) -> None:
    if tar.tell() + len(chunk) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    tar.write(chunk)


def _unpack(tar: IO[bytes], folder: Path) -> tuple[dict[str, str], list[str]]:
    """Writes members with expected names under `folder`; returns their sums, and problems of the archive itself."""
    size = tar.tell()
    tar.seek(0)
    sums: dict[str, str] = {}
    problems: list[str] = []
    members: list[tuple[str, int, int]] = []
    with tarfile.open(fileobj=tar, mode="r:") as archive:
        for info in archive:
            if not info.isreg():
                problems.append(f"{info.name}: not a regular file")
            elif not _MEMBER.fullmatch(info.name) or ".." in info.name:
                problems.append(f"{info.name}: not a name that belongs in a bundle")
            elif info.name in sums:
                problems.append(f"{info.name}: is there twice")
            elif info.offset_data + info.size > size:
                problems.append(f"{info.name}: is cut off")
            else:
                members.append((info.name, info.size, info.offset_data))
                sums[info.name] = _sum_of(_chunks_at(tar, info.offset_data, info.size))
                path = folder / info.name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    for chunk in _chunks_at(tar, info.offset_data, info.size):
                        file.write(chunk)
    if not problems:
        repacked = _Summed()
        _write_tar(repacked, ((name, length, _chunks_at(tar, offset, length)) for name, length, offset in members))
        if repacked.hexdigest() != _sum_of(_chunks_at(tar, 0, size)):
            problems.append("the archive holds bytes that belong to none of its members")
    return sums, problems


def _read_manifest(path: Path) -> dict[str, Any] | str:
    """The manifest, or what is wrong with it."""
    try:
        signed = json.loads(path.read_bytes())
        content = signed["content"]
        if path.read_bytes() != _with_sum(content):
            return f"{MANIFEST}: was altered: its content does not have the sum it states"
        if content["format"] != FORMAT:
            return f"{MANIFEST}: format {content['format']!r} is unknown: expected {FORMAT!r}"
        return dict(content)
    except FileNotFoundError:
        return f"{MANIFEST}: is missing"
    except (ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST}: cannot be read: {error}"


def _compare(manifest: Mapping[str, Any], sums: Mapping[str, str]) -> list[str]:
    expected = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    found = {name: digest for name, digest in sums.items() if name != MANIFEST}
    problems = [f"{name}: is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name}: is not in the manifest" for name in found.keys() - expected.keys()]
    problems += [f"{name}: was altered" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    return sorted(problems)


def _check_study(manifest: Mapping[str, Any], store: Store) -> list[str]:
    """Whether plan, records and predictions belong together."""
    try:
        plan = store.plan(manifest["study_id"])
    except StudyError as error:
        return [f"plan: {error}"]
    problems = []
    if (plan.study_id, plan.hash) != (manifest["study_id"], manifest["plan_hash"]):
        problems.append("plan: is not the one that the manifest names")
    planned = {cell.id for stage in plan.stages for cell in stage.cells}
    problems += [f"cells/{cell_id}: is not in the plan" for cell_id in store.cell_ids() if cell_id not in planned]
    problems += _check_results(plan, store)
    absent = []
    for cell_id in sorted(planned):
        try:
            record = store.record(cell_id)
        except StudyError as error:
            problems.append(f"cells/{cell_id}: {error}")
            continue
        if record is None:
            absent.append(cell_id)
            continue
        with contextlib.suppress(ValueError):
            if Cell.model_validate(record.cell).id == cell_id:
                problems += _check_predictions(store, cell_id, record.predictions_sha256)
                continue
        problems.append(f"cells/{cell_id}: the content of the record does not have this id")
    if absent != sorted(manifest["cells_without_record"]):
        problems.append("the cells without a record are not those that the manifest names")
    return problems


def _asked(plan: Plan, store: Store) -> dict[tuple[Results[Any], str], Callable[[Any], str]]:
    """Kind and id of every result besides records that a study can have, with what says why one is outdated."""
    stated = StatedWeights(store)
    of_plan: dict[tuple[Results[Any], str], Callable[[Any], str]] = {
        (EVALUATIONS, network.id): partial(why_outdated, network, store) for network in frozen_networks(plan)
    }
    return of_plan | {(PROBED, one.id): partial(stated.why_outdated, one) for one in probed_subjects(plan)}


def _check_results(plan: Plan, store: Store) -> Iterator[str]:
    """Whether every result besides records belongs to the plan, says what its id was made from, and is current."""
    asked = {key: outdated for stage in plan.stages for key, outdated in _asked(stage, store).items()}
    for results in (EVALUATIONS, PROBED):
        for result_id in store.result_ids(results.folder):
            outdated = asked.get((results, result_id))
            if outdated is None:
                yield f"{results.folder}/{result_id}: is not in the plan"
                continue
            try:
                result = results.read(store, result_id)
                why = "" if result is None else outdated(result)
            except StudyError as error:
                why = str(error)
            if why:
                yield f"{results.folder}/{result_id}: {why}"


def _check_predictions(store: Store, cell_id: str, expected: str) -> list[str]:
    path = store.predictions_path(cell_id)
    found = _sum_of(_chunks_of(path)) if path.is_file() else ""
    return [] if found == expected else [f"cells/{cell_id}: the predictions are not those of the record"]


def _with_sum(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True, indent=1)
    return json.dumps({"content": content, "sha256": _sum_of([text.encode()])}, sort_keys=True, indent=1).encode()


def _chunks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(_CHUNK), b"")


def _chunks_at(file: IO[bytes], offset: int, size: int) -> Iterator[bytes]:
    while size > 0:
        file.seek(offset)
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            return
        yield chunk
        offset, size = offset + len(chunk), size - len(chunk)


def _sum_of(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
