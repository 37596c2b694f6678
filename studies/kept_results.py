"""Results besides the records of cells: found by a hash of all that determines them, and never computed twice.

What a result is of, is known before it is computed; its id is a hash of that. It is one file with a checksum, written
whole or not at all, and what a figure draws lies beside it in `arrays.npz`, by whose SHA-256 the result knows it. Who
holds the lock of a result computes it; a damaged one, and one of what has changed since, is set aside, told of, and
computed again. One that cannot be read at the moment stays as it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from .digest import digest
from .errors import StoreError, StudyError
from .files import read_bytes, sha256_of, write_atomically, write_text
from .store import Store
from .strict import Strict

Arrays = Mapping[str, npt.NDArray[np.float32]]
ARRAYS = "arrays.npz"


class DamagedError(StoreError):
    """What is there was read, and is not what was written: it can be set aside and computed again."""


class BusyError(StudyError):
    """Another process computes the result at this moment."""


Result = TypeVar("Result", bound=Strict)
"""A pydantic model with a field `identity`, all that determines the result, and one that holds the hash of it."""


def id_of(identity: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits, the same for the same content."""
    return digest(dict(identity))[:16]


@dataclass(frozen=True)
class Results(Generic[Result]):
    """The results of one kind.

    Attributes:
        folder: in the store, which has a folder per id in it.
        kind: what a result is read as.
        id_field: its field that holds the id.
        noun: what one is called.
        mended_by: what a person does about a damaged one.
        has_arrays: whether results have arrays beside them; they then have a field `arrays_sha256`, empty without.
    """

    folder: str
    kind: type[Result]
    id_field: str
    noun: str
    mended_by: str
    has_arrays: bool = False

    def path(self, store: Store, result_id: str) -> Path:
        """Where a result lies."""
        return store.result_folder(self.folder, result_id) / "result.json"

    def files(self, store: Store, result: Result) -> tuple[Path, ...]:
        """The files of a result that was read."""
        path = self.path(store, getattr(result, self.id_field))
        return (path, path.with_name(ARRAYS)) if self._arrays_sha256(result) else (path,)

    def read(self, store: Store, result_id: str) -> Result | None:
        """A result, or None where there is none yet.

        Raises:
            DamagedError: it or its arrays are damaged.
            StoreError: they cannot be read at the moment.
        """
        path = self.path(store, result_id)
        try:
            content = json.loads(read_bytes(path))
            if content["sha256"] != digest(content["result"]):
                raise ValueError("its checksum does not match")
            result = self.kind.model_validate(content["result"])
            if (own := getattr(result, self.id_field)) != result_id:
                raise ValueError(f"it belongs to {self.noun} {own}")
            if id_of(content["result"]["identity"]) != result_id:
                raise ValueError("its content does not have this id")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
        except RecursionError:
            raise self._damaged(path, "its brackets are nested without end") from None
        except ValidationError as error:
            raise self._damaged(path, error.errors()[0]["msg"]) from None
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(path, str(error).splitlines()[0]) from None
        if expected := self._arrays_sha256(result):
            try:
                found = sha256_of(path.with_name(ARRAYS))
            except FileNotFoundError as error:
                raise self._damaged(path.with_name(ARRAYS), error.strerror or str(error)) from None
            except OSError as error:
                raise StoreError(f"{path.with_name(ARRAYS)} cannot be read: {error.strerror or error}") from error
            if found != expected:
                raise self._damaged(path.with_name(ARRAYS), "its SHA-256 is not the one that the result states")
        return result

    def arrays(self, store: Store, result_id: str) -> dict[str, npt.NDArray[np.float32]]:
        """The arrays of a result by name; none where it has none.

        Raises:
            StoreError: the result or its arrays are damaged.
        """
        result = self.read(store, result_id)
        if result is None or not self._arrays_sha256(result):
            return {}
        with np.load(self.path(store, result_id).with_name(ARRAYS), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def write(self, result: Result, store: Store, arrays: Arrays | None = None) -> None:
        """Writes the arrays, then the result that names their hash, each whole or not at all.

        Raises:
            StoreError: the results folder cannot be written.
        """
        path = self.path(store, getattr(result, self.id_field))
        if arrays:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
            write_atomically(path.with_name(ARRAYS), lambda file: file.write(buffer.getbuffer()))
            result = result.model_copy(update={"arrays_sha256": sha256_of(path.with_name(ARRAYS))})
        payload = result.model_dump(mode="json")
        write_text(path, json.dumps({"result": payload, "sha256": digest(payload)}, indent=1))

    def compute(
        self,
        store: Store,
        result_id: str,
        title: str,
        make: Callable[[], tuple[Result, Arrays]],
        on_message: Callable[[str], None],
        again: Callable[[Result], bool] = lambda result: False,
        outdated: Callable[[Result], str] = lambda result: "",
    ) -> Result:
        """The result, computed and written unless it is there by now.

        Args:
            title: what it is of, for people.
            make: computes it, with its arrays.
            on_message: called with what a person should know meanwhile.
            again: whether one that is there is to be computed anew.
            outdated: why one that is there is not of what is there now, as a verb phrase; empty where it is.

        Raises:
            BusyError: another process computes it at this moment.
            StudyError: the one that is there cannot be read.
            Exception: whatever `make` raises; nothing is written then.
        """
        with store.result_lock(self.folder, result_id) as mine:
            if not mine:
                raise BusyError(f"another process is at it; {self.mended_by} once that has ended")
            known, fault, kind = None, "is damaged", "damaged"
            with contextlib.suppress(DamagedError):
                known, kind = self.read(store, result_id), "outdated"
                fault = "" if known is None else outdated(known)
            if fault:
                aside = self.set_aside(store, result_id, kind)
                on_message(f"the {self.noun} of {title} {fault}: kept as {aside}, it is computed again")
                known = None
            if known is not None and not again(known):
                return known  # another process was faster
            result, arrays = make()
            self.write(result, store, arrays)
            written = self.read(store, result_id)
            assert written is not None
            return written

    def set_aside(self, store: Store, result_id: str, kind: str = "damaged") -> Path:
        """Renames a damaged or outdated result, so that it is computed again; the caller holds its lock."""
        path = self.path(store, result_id)
        return path.rename(path.with_name(f"result.{kind}-{time.time_ns()}.json"))

    def _arrays_sha256(self, result: Result) -> str:
        return str(getattr(result, "arrays_sha256", "")) if self.has_arrays else ""

    def _damaged(self, path: Path, reason: str) -> DamagedError:
        return DamagedError(f"{path} is damaged ({reason}): {self.mended_by}, which sets it aside")
