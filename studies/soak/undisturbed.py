"""The study in peace: what every trial is held against."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from studies.errors import ConfigError, ExitCode, StudyError
from studies.grid import Plan
from studies.progress import StagesProgress
from studies.store import Store

LOOK_SECONDS = 1.0  # between two looks at how far it is
MOST_TOLD = 6000  # characters of what a study printed, from its end


def undisturbed(command: Sequence[str], store: Path, console: Console) -> None:
    """Runs the study once to its end, and says meanwhile how far it is.

    Args:
        command: of the study.
        store: which it trains into; what it prints is kept beside.
        console: where it is said.

    Raises:
        ConfigError: it cannot be run at all.
        StudyError: it does not finish even so.
    """
    printed = store.with_name(f"{store.name}-output.txt")
    printed.parent.mkdir(parents=True, exist_ok=True)
    with (
        printed.open("wb") as output,
        StagesProgress(Store(store), console) as progress,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as process,
    ):
        try:
            code, stage = None, None
            while code is None:
                stage = _look(Store(store), stage, progress)
                try:
                    code = process.wait(LOOK_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:  # a signal too: the study does not outlive the soak
            process.kill()
            raise
    if code == ExitCode.OK:
        return
    told = printed.read_text(errors="replace")[-MOST_TOLD:]
    if code == ExitCode.USAGE:  # nothing was trained, so that nothing is kept
        printed.unlink()
        with contextlib.suppress(OSError):
            printed.parent.rmdir()
        raise ConfigError(f"soak: the study cannot be run: {told.strip()}")
    raise StudyError(
        f"undisturbed the study ends with exit code {code}, so that there is nothing to compare with. It printed:\n"
        f"{told}\nIts results are in {store}. A soak is not continued: {anew(store.parent)}"
    )


def anew(folder: Path) -> str:
    """How a soak that has ended before its end is given again."""
    return f"to begin it anew remove {folder}, or name another --folder"


def _look(store: Store, stage: Plan | None, progress: StagesProgress) -> Plan | None:
    """Says how far the stage locked last is; without trying a lock, which would be a disturbance."""
    if not (ids := store.study_ids()):
        return None
    if stage is None or stage.study_id != ids[-1]:
        stage = store.plan(ids[-1])
        progress.begin(stage, [])
    progress.update([cell.id for cell in stage.cells if store.progress(cell.id) is not None])
    return stage
