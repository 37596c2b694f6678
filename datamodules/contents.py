"""Hash of the contents of files, remembered as long as their sizes and modification times stay."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from datamodules.cache import cache_folder, write_atomically
from datamodules.source import fingerprint


def content_hash(root: Path, files: Sequence[Path]) -> str:
    """SHA-256 over the relative names and contents of `files`, independent of where `root` lies.

    Hashing 150 MB takes a fraction of a second, a large folder longer; the result is kept in the cache folder under
    the files' names, sizes and modification times. A cache that cannot be written is no error here.
    """
    listing = [(str(path.relative_to(root)), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    note = cache_folder() / "contents" / f"{fingerprint(root=str(root.resolve()), files=listing)}.json"
    with suppress(OSError, ValueError, KeyError):
        return str(json.loads(note.read_text())["sha256"])
    digest = hashlib.sha256()
    for path, (name, size, _) in zip(files, listing, strict=True):
        digest.update(f"{name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    with suppress(OSError):
        write_atomically(note, json.dumps({"root": str(root), "sha256": digest.hexdigest()}))
    return digest.hexdigest()
