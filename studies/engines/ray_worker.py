"""A worker within a Ray actor: what runs on the nodes of a cluster."""

from __future__ import annotations

import os
import platform
import queue
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from studies.errors import StoreError
from studies.sources import code_version
from studies.store import Store

from .lock_witness import check_locks
from .worker import Assignment, Message, Worker


@dataclass(frozen=True)
class Origin:
    """Where a study was started, so that its actors work as if there.

    Attributes:
        folder: the launcher's working folder, which paths of data may be relative to.
        witness: the launcher's, among those of the study (`lock_witness`).
        code_version: of the launcher's package.
    """

    folder: Path
    witness: Path
    code_version: str


class RayWorker:
    """The actor. Its jobs run one after the other in one thread, while another hands their messages out.

    The process never forks, so that the locks of its cells are free the moment it ends, however it ends.
    """

    def __init__(self, assignment: Assignment, origin: Origin) -> None:
        self._assignment, self._origin = assignment, origin
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._worker: Worker | None = None

    def prepare(self) -> str | None:
        """Makes ready for jobs; returns what stands against it on this node, for people."""
        try:
            check_locks(self._origin.witness.parent, living=self._origin.witness)
            refusal = self._prepare()
        except StoreError as error:
            refusal = str(error)
        return None if refusal is None else f"node {platform.node()}: {refusal}"

    def run(self, job: tuple[str, ...]) -> None:
        """Trains the cells of a job; an exception is no single cell's fault, and ends the process."""
        assert self._worker is not None
        try:
            self._worker.run(job)
        except BaseException:
            traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    def messages(self) -> list[Message]:
        """What the worker has to say: waits for something."""
        found = [self._messages.get()]
        while not self._messages.empty():
            found.append(self._messages.get())
        return found

    def send(self, message: Message) -> None:
        """Takes a message of the worker."""
        self._messages.put(message)

    def _prepare(self) -> str | None:
        folder = self._origin.folder
        if folder.is_dir():
            os.chdir(folder)
            sys.path.append(str(folder))  # so that families and data factories of the working folder can be imported
        import studies.train  # noqa: F401  # the first job does not wait for it
        from studies.errors import StudyError
        from studies.precision import check_precision
        from studies.readiness import prepare_data

        if code_version() != self._origin.code_version:
            return (
                f"the package at {Path(sys.modules['studies'].__file__ or '').parent} is {code_version()}, the "
                f"launcher's is {self._origin.code_version}; install the same on every node"
            )
        one = self._assignment
        try:
            plan = Store(one.store).plan(one.study_id)
            check_precision(plan.spec.recipe.precision, one.device)
            prepare_data(plan, one.data)  # decodes on this node what it has not decoded before
            self._worker = Worker(self, one)
        except (StudyError, OSError) as error:
            return str(error)
        return None
