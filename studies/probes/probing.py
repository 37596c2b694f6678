"""Probes applied to the networks of a finished study, one result at a time; the same command continues.

Networks are probed on validation images, by the weights of the full budget and by those drawn for the replicate. What
is missing is shared out in jobs, whose subjects have their networks in common, to one process or to several. What
another call is at meanwhile is waited for, and computed here where that one ends without a result.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace

from studies.counts import counted
from studies.engines.local import warm_up
from studies.grid import Plan
from studies.lifetime import end_with_parent
from studies.store import Store

from .job import Job, Probing, run_job
from .networks import without_weights
from .probe_results import PROBED, StatedWeights
from .subjects import Subject, once

BUSY_SECONDS = 1.0  # between two looks at what another process is at


def probe_networks(
    plan: Plan,
    store: Store,
    asked: Sequence[Subject],
    *,
    devices: Sequence[str] = ("cpu",),
    retry_failed: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> Probing:
    """Applies every probe that has no result yet.

    Args:
        plan: of the study.
        store: where its weights and results lie.
        asked: `subjects` of the plan.
        devices: one per process; on `cpu` each has one thread.
        retry_failed: probe again what failed before.
        on_progress: called with the results that are there and all that are asked for.
        on_message: called when all else is computed, and others are waited for.
    """
    found, wanted, stated = Probing(), once(asked), StatedWeights(store)
    jobs: dict[object, list[Subject]] = {}
    for subject in wanted:
        known = stated.current(subject)
        if known is not None and not (retry_failed and known.outcome == "failed"):
            found.book(subject, known)
        elif not (reasons := without_weights(subject, store)):
            key = (subject.cell.seeds.subset, [cell.id for cell in subject.cells], subject.weights)
            jobs.setdefault(str(key), []).append(subject)
        else:
            found.without_weights |= reasons
    left = [
        Job(store.root.resolve(), plan.study_id, plan.hash, plan.spec.data, devices[0], tuple(jobs[key]), retry_failed)
        for key in sorted(jobs, key=lambda key: jobs[key][0].cell.seeds.subset)
    ]
    total = sum(map(len, jobs.values()))
    on_progress(0, total)
    done, waited_for = 0, False
    while left:
        found.busy.clear()
        for job, part in _run(left, len(devices) if devices[0] == "cpu" else 1):
            found.add(part)
            done += len(job.subjects) - len(part.busy)
            on_progress(done, total)
        if found.busy and not waited_for:
            waited_for = True
            on_message(f"probes: {counted(len(found.busy), 'result')} another process is at, which is waited for")
        left = _when_free(left, found.busy, store)
    return found


def _when_free(jobs: Sequence[Job], busy: Sequence[Subject], store: Store) -> list[Job]:
    """What is left of the jobs once another process has let go of all that it is at; none where there is nothing."""
    left = {subject.id for subject in busy}
    while any(store.is_result_locked(PROBED.folder, one) for one in left):
        time.sleep(BUSY_SECONDS)
    rest = (replace(job, subjects=tuple(one for one in job.subjects if one.id in left)) for job in jobs)
    return [job for job in rest if job.subjects]


def _run(jobs: Sequence[Job], num_processes: int) -> Iterator[tuple[Job, Probing]]:
    """Every job with what it came to, in this process or in several, which end with this one."""
    if num_processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, run_job(job)
        return
    warm_up()
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(min(num_processes, len(jobs)), context, _begin_worker) as pool:
        waiting: dict[Future[Probing], Job] = {pool.submit(run_job, job): job for job in jobs}
        try:
            for future in as_completed(waiting):
                job = waiting[future]
                try:
                    yield job, future.result()
                except Exception as error:
                    why = f"its process ended: {type(error).__name__}: {error}"
                    yield job, Probing(faults={subject.title: why for subject in job.subjects})
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker() -> None:
    """Ctrl-C reaches the launcher, which ends its workers once they have written what they are at."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
