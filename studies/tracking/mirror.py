"""Mirrors recorded cells into W&B runs, and hands offline runs to a server. Nothing here raises for W&B's sake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from studies.files import write_text
from studies.records import Record
from studies.report.card import StudyCard

from .runs import Run, cell_run, runs_folder
from .settings import TrackingSpec, client_environment, decide, find_server, is_installed
from .summary import summary_run

SECONDS_PER_RUN = {"offline": 1.0, "online": 5.0}
RUNS_PER_SYNC = 50
CLIENT: tuple[str, ...] = (sys.executable, "-m", "studies.tracking.client", "write")
SYNC_COMMAND: tuple[str, ...] = (sys.executable, "-m", "wandb", "sync")


@dataclass(frozen=True)
class MirrorResult:
    """What became of a mirror.

    Attributes:
        state: `mirrored`: every cell has its run; `partial`: some have not; `off`: nothing was tried.
        mode: where runs were written.
        written: runs written now.
        kept: runs that were there already.
        problems: a line per thing that went wrong.
        message: all this in a sentence.
    """

    state: Literal["mirrored", "partial", "off"]
    mode: Literal["offline", "online", "off"]
    written: int
    kept: int
    problems: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class SyncResult:
    """What became of handing runs to a server."""

    ok: bool
    handed_over: int
    waiting: int
    message: str


def mirror_study(
    records: Sequence[Record],
    card: StudyCard,
    folder: Path,
    settings: TrackingSpec,
    meanwhile: Callable[[], object] = lambda: None,
    probed: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> MirrorResult:
    """Writes one clean run per recorded cell and one for the study, where they are not there already.

    Args:
        records: the records so far. A failed cell has a run too.
        card: the study as declared.
        folder: the study's folder; runs go to `wandb/` in it, figures and answers are taken from `report/`.
        settings: what the user asked for.
        meanwhile: called once, in any mode, while wandb writes the runs of the cells: the study's own run needs the
            report, those of the cells do not, so both can be made at once. What it raises comes through.
        probed: cell id -> values that probes read off its networks, by the name they have in the run's summary.

    Returns:
        What happened; no exception of W&B, no missing key and no dead network comes through, and the time is bounded
        by `settings.timeout_seconds` and one (offline) or five (online) seconds per run, for cells and study each.
    """
    decision = decide(settings)
    if decision.mode == "off":
        meanwhile()
        return MirrorResult("off", "off", 0, 0, (), f"not mirrored: {decision.reason}")
    target = runs_folder(folder)
    runs = [cell_run(record, card, probed.get(record.cell_id, {})) for record in records]
    missing = [run for run in runs if not _is_written(run, target)]
    problems: list[str] = []
    if missing:
        _clear(target, {run["id"] for run in missing})
    writer = threading.Thread(target=lambda: problems.extend(_write(missing, target, settings, decision.mode)))
    writer.start()
    try:
        meanwhile()
    finally:
        writer.join()
    if records:
        figures = sorted((folder / "report" / "figures").glob("*.png"))
        summary = summary_run(records, card, figures, read_answers(folder / "report" / "answers.json"))
        runs.append(summary)
        if not _is_written(summary, target):
            missing.append(summary)
            _clear(target, {summary["id"]}, {run["id"] for run in runs})
            problems.extend(_write([summary], target, settings, decision.mode))
    written = sum(_is_written(run, target) for run in missing)
    kept = len(runs) - len(missing)
    parts = [f"{written} runs written {decision.mode}" if written or not kept else "", f"{kept} kept" if kept else ""]
    message = ", ".join(part for part in parts if part) + f" in {target}"
    if decision.reason:
        message += f" ({decision.reason})"
    if problems:
        message += f"; {len(missing) - written} not written: {problems[0]}"
    state: Literal["mirrored", "partial"] = "mirrored" if written == len(missing) else "partial"
    return MirrorResult(state, decision.mode, written, kept, tuple(problems), message)


def _is_written(run: Run, target: Path) -> bool:
    return bool(_marker(target, run["id"]).get("digest") == run["digest"])


def read_answers(path: Path) -> dict[str, Any] | None:
    """The answers of the report; None where there are none that can be read."""
    try:
        answers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return answers


def sync_study(folder: Path, settings: TrackingSpec, *, timeout: float = 600.0) -> SyncResult:
    """Hands the finished offline runs of a study to the server that wandb is set up for.

    Args:
        folder: the study's folder.
        settings: project and entity are already in the runs; `kind` off hands over nothing.
        timeout: seconds after which to give up; what was handed over until then is not sent again.
    """
    target = runs_folder(folder)
    markers = {path: json.loads(path.read_text()) for path in sorted(target.glob("*.json"))}
    waiting = {path: marker for path, marker in markers.items() if not marker["synced"]}
    if settings.kind == "off":
        return SyncResult(False, 0, len(waiting), "not synced: tracking is off")
    if not waiting:
        return SyncResult(
            True, 0, 0, f"nothing to hand over: {len(markers)} runs of this study are on the server already"
        )
    if not is_installed():
        return SyncResult(False, 0, len(waiting), "not synced: wandb is not installed")
    server = find_server()
    if server.problem:
        return SyncResult(False, 0, len(waiting), f"not synced: {server.problem}; {len(waiting)} runs wait in {target}")
    problem = ""
    paths = list(waiting)
    for start in range(0, len(paths), RUNS_PER_SYNC):
        part = paths[start : start + RUNS_PER_SYNC]
        folders = [str(target / "wandb" / Path(waiting[path]["folder"]).name) for path in part]
        _, problem = _call([*SYNC_COMMAND, *folders], "", "online", timeout)
        for path, run_folder in zip(part, folders, strict=True):
            if any(Path(run_folder).glob("*.wandb.synced")):
                write_text(path, json.dumps(waiting[path] | {"synced": True}))
                del waiting[path]
        if problem:
            break
    done = len(paths) - len(waiting)
    if waiting:
        text = problem or "wandb did not say that it has them"
        return SyncResult(False, done, len(waiting), f"{done} runs handed over, {len(waiting)} not: {text}")
    return SyncResult(True, done, 0, f"{done} runs handed over to {server.address}")


def _write(runs: Sequence[Run], target: Path, settings: TrackingSpec, mode: str) -> tuple[str, ...]:
    """Hands runs to a client of their own; returns what went wrong."""
    if not runs:
        return ()
    job = {
        "folder": str(target.resolve()),
        "mode": mode,
        "project": settings.project,
        "entity": settings.entity,
        "runs": list(runs),
    }
    timeout = settings.timeout_seconds + SECONDS_PER_RUN[mode] * len(runs)
    answer, problem = _call(CLIENT, json.dumps(job), mode, timeout)
    if problem:
        return (problem,)
    return tuple(json.loads(answer.splitlines()[-1])) if answer.strip() else ("wandb gave no answer",)


def _call(command: Sequence[str], text: str, mode: str, timeout: float) -> tuple[str, str]:
    """Runs a client under a time limit, itself and all it started; returns its answer and what went wrong."""
    environment: Mapping[str, str] = client_environment(mode)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return "", f"{command[0]} cannot be started: {error}"
    try:
        answer, errors = process.communicate(text, timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "", f"stopped after {timeout:.0f} seconds"
    if process.returncode:
        lines = [line for line in errors.splitlines() if line.strip()] or ["no message"]
        return answer, f"wandb ended with code {process.returncode}: {lines[-1].strip()}"
    return answer, ""


def _marker(target: Path, identifier: str) -> dict[str, Any]:
    try:
        content = json.loads((target / f"{identifier}.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _clear(target: Path, missing: set[str], current: set[str] | None = None) -> None:
    """Removes what an interrupted mirror left of the runs to be written.

    Args:
        current: if given, every run of the study as it stands: summaries besides it that nobody was given yet go too.
    """
    outdated = set() if current is None else {path.stem for path in target.glob("*.json")} - current
    for name in missing | {name for name in outdated if not _marker(target, name).get("synced")}:
        for folder in (target / "wandb").glob(f"*run-*-{name}"):
            shutil.rmtree(folder, ignore_errors=True)
        (target / f"{name}.json").unlink(missing_ok=True)
