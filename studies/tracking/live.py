"""Shows a cell in W&B while it trains.

Logging puts a row into a queue and returns; a thread and a process do the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.records import arm_of

from .runs import Row, run_id, run_name, runs_folder
from .settings import TrackingSpec, client_environment, decide

LIVE_CLIENT: tuple[str, ...] = (sys.executable, "-m", "studies.tracking.client", "live")
QUEUE_ROWS = 1000  # beyond this, rows are dropped and counted: the record has them all


@dataclass(frozen=True)
class LiveResult:
    """What became of showing a cell: its address, or why there is none."""

    url: str | None
    dropped: int
    message: str


class LiveMirror:
    """A running cell in W&B, under the metric names of its later run (`studies.tracking.runs`), tagged `live`.

    Does something only where the mode is online and a server can be reached, which a thread finds out. No method blocks
    except `close`, and that only for its timeout.
    """

    def __init__(
        self,
        cell: Mapping[str, Any],
        cell_id: str,
        study_id: str,
        folder: Path,
        settings: TrackingSpec,
        tier: str | None = None,
    ) -> None:
        """Starts to connect, in the background.

        Args:
            cell: the cell's resolved content.
            cell_id: its id.
            study_id: the group of the run.
            folder: the study's folder.
            settings: what the user asked for.
            tier: the study's, which names do not mention.
        """
        self._rows: queue.Queue[Row | None] = queue.Queue(QUEUE_ROWS)
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._dropped = 0
        self._message = "not shown: tracking is not online"
        self._status = Path(tempfile.gettempdir()) / f"study-live-{os.getpid()}-{cell_id}.json"
        self._job = {
            "folder": str(runs_folder(folder).resolve()),
            "mode": "online",
            "project": settings.project,
            "entity": settings.entity,
            "status": str(self._status),
            "run": {
                "id": f"{run_id(study_id, cell_id)}-live",
                "name": f"{run_name(dict(cell), tier)} (live)",
                "group": study_id,
                "job_type": arm_of(cell, tier),
                "tags": ["live"],
                "notes": "a running cell; its record gives a run of its own",
                "config": {**cell, "cell_id": cell_id, "study": study_id},
            },
        }
        self._thread: threading.Thread | None = None
        if settings.kind == "wandb" and settings.mode == "online":
            self._message = "not shown: still connecting"
            self._thread = threading.Thread(target=self._pump, daemon=True, name="live-mirror")
            self._thread.start()

    def log(self, row: Row) -> None:
        """Shows a row of `train_row` or `validation_row`; dropped where W&B does not keep up."""
        if self._thread is None:
            return
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self._dropped += 1

    @property
    def url(self) -> str | None:
        """The run's address once it is known."""
        try:
            address = json.loads(self._status.read_text())["url"]
        except (OSError, ValueError, KeyError):
            return None
        return str(address) if address else None

    def close(self, timeout: float = 5.0) -> LiveResult:
        """Ends the run, waiting at most `timeout` seconds for what is still in the queue."""
        deadline = time.monotonic() + timeout
        url = self.url
        if self._thread is not None:
            if self._thread.is_alive():
                with contextlib.suppress(queue.Full):
                    self._rows.put(None, timeout=timeout)
            self._thread.join(max(0.0, deadline - time.monotonic()))
        process = self._process
        if process is not None:
            try:
                code = process.wait(max(0.0, deadline - time.monotonic()))
                self._message = "shown" if code == 0 else f"not shown: wandb ended with code {code}"
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self._message = f"cut short: wandb did not finish within {timeout:g} seconds"
        url = self.url or url
        self._status.unlink(missing_ok=True)
        return LiveResult(url, self._dropped, self._message)

    def _pump(self) -> None:
        decision = decide(self._settings)
        if decision.mode != "online":
            self._message = f"not shown: {decision.reason}"
            return
        try:
            self._process = subprocess.Popen(
                LIVE_CLIENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                env=client_environment("online"),
                start_new_session=True,
            )
            pipe = self._process.stdin
            assert pipe is not None
            with pipe:
                pipe.write(json.dumps(self._job) + "\n")
                pipe.flush()
                for row in iter(self._rows.get, None):
                    pipe.write(json.dumps(row) + "\n")
                    pipe.flush()
        except OSError as error:
            self._message = f"not shown: {error}"
