"""Cells trained: trunk, cooldowns, validation, then the records; the only module that builds a Trainer.

A job is one cell or several of one architecture. Several train in lockstep, as lanes of one program; alone or not, each
has its own course, checkpoint and record, and its neighbours change none of them.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from datamodules import DataConfig
from datamodules.lane_batches import pool_bytes
from datamodules.residency import fits
from models.lanes import why_no_lanes

from . import stopping
from .cell import Cell
from .chunked import ChunkedClassifier
from .course import CellCourse, Segment
from .engine_spec import EngineSpec
from .environment import environment, now
from .job_data import JobData
from .kept_weights import START_BRANCH, keep_weights
from .lane_program import LaneProgram
from .lane_width import takes_lanes
from .outcome import assess
from .program import Chunk, Program, initial_network
from .records import Record
from .store import Store
from .team import SOLO, Rank, TeamEnvironment, check_team, team
from .tracking.live import LiveMirror

CHECKPOINT_SHARE = 0.05  # of the time may go into checkpoints, which every lane writes


def train_cell(
    cell: Cell,
    data: DataConfig,
    store: Store,
    study_id: str,
    plan_hash: str,
    settings: EngineSpec,
    device: str = "cpu",
    live: LiveMirror | None = None,
) -> Record:
    """Trains a cell, continuing from its checkpoint if there is one, and writes its record. The caller holds the lock.

    Args:
        live: shows losses and validations while they come; never waits for them to be seen.

    Raises:
        StudyError: the data are not the ones planned, or the disk is full.
        OSError: another fault of the machine.
    """
    lives = {} if live is None else {cell.id: live}
    ((_, result),) = train_cells([cell], data, store, study_id, plan_hash, settings, device, lives)
    if isinstance(result, Exception):
        raise result
    return result


def train_cells(
    cells: Sequence[Cell],
    data: DataConfig,
    store: Store,
    study_id: str,
    plan_hash: str,
    settings: EngineSpec,
    device: str = "cpu",
    lives: Mapping[str, LiveMirror] | None = None,
    in_lanes: bool | None = None,
) -> Iterator[tuple[str, Record | Exception]]:
    """Trains cells alike by `jobs.program_key` and writes their records; the caller holds all their locks.

    Cells that stand at one place train in lockstep, others after them. Networks that cannot share a program train one
    by one.

    Args:
        lives: shows the losses of the cells named.
        in_lanes: whether to make programs of lanes; by default where `takes_lanes` says so, for several cells as for a
            lone one. Never where several devices share a cell.

    Yields:
        A cell's id with its record, or with what went wrong in its own data or record and in no other's.

    Raises:
        Exception: what a program raised, which is no single cell's; cells not yielded by then go on from their
            checkpoints.
    """
    check_team(cells, settings, device)
    several = settings.devices_per_cell > 1
    wanted = takes_lanes(cells[0], settings, device) if in_lanes is None else in_lanes
    in_lanes = wanted and not several and _can_share(cells[0])
    arguments = (cells, data, store, study_id, plan_hash, settings)
    with team(settings, device, _follow, *arguments) as rank:
        yield from _train(rank, device, *arguments, lives, in_lanes)


def _train(
    rank: Rank,
    device: str,
    cells: Sequence[Cell],
    data: DataConfig,
    store: Store,
    study_id: str,
    plan_hash: str,
    settings: EngineSpec,
    lives: Mapping[str, LiveMirror] | None = None,
    in_lanes: bool = False,
) -> Iterator[tuple[str, Record | Exception]]:
    """What every process of a team does, or the only one; those that do not lead yield and write nothing."""
    if device == "cpu":
        torch.set_num_threads(1)
    else:
        torch.cuda.set_device(device)
    shared, courses = JobData(data), list[CellCourse]()
    for cell in cells:
        live = (lives or {}).get(cell.id)
        pooled = in_lanes and device != "cpu"
        try:
            course = CellCourse(cell, shared, store, settings, device, live, pooled=pooled, leads=rank.leads)
            courses.append(course)
        except Exception as error:
            yield cell.id, error
    in_lanes = in_lanes and _pool_fits(courses, device)
    for group in _groups(courses, in_lanes=in_lanes):
        program = _program(group, settings, device, rank, in_lanes=in_lanes)
        try:
            Lockstep(group, program, settings, device, rank).run()
        finally:
            program.close()  # validation has had its say, and the test split needs no captured step
        if not rank.leads:
            continue
        where = environment(device, program.num_lanes if in_lanes else 0)
        for lane, course in enumerate(group):
            try:
                trained = course.trained(program.network_of(lane))
                # Only now is the test split read, once, for all branches together; never in a tuning.
                test = shared.test_split(course.cell.seeds.subset) if course.cell.reads_test else None
                record, predictions = assess(trained, test, study_id, plan_hash, where, now())
                if course.live is not None:
                    record = record.model_copy(update={"wandb_url": course.live.close().url or ""})
                if settings.keep_checkpoints:
                    record = record.model_copy(update={"kept_sha256": _keep_weights(course)})
                record = store.write_record(record, predictions)
                store.finish_cell(course.cell.id)
                yield course.cell.id, record
            except Exception as error:
                yield course.cell.id, error


def _follow(rank: Rank, device: str, *arguments: Any) -> None:  # noqa: ANN401  # those of `_train`
    """The part of a process that does not lead."""
    for cell_id, error in _train(rank, device, *arguments):
        raise RuntimeError(f"cell {cell_id} cannot be trained by process {rank.number}") from error  # type: ignore[misc]


def failed_record(cell: Cell, study_id: str, plan_hash: str, reason: str) -> Record:
    """The record of a cell that a fault of its own ended."""
    return Record(
        protocol_version=cell.protocol_version,
        cell_id=cell.id,
        cell=cell.model_dump(mode="json"),
        study=study_id,
        plan_hash=plan_hash,
        status="failed",
        reason=reason,
        finished_at=now(),
        environment=environment("cpu"),
    )


class Lockstep:
    """Takes the courses of a program, all at one place, through every segment that is still to do."""

    def __init__(
        self,
        courses: Sequence[CellCourse],
        program: Program,
        settings: EngineSpec,
        device: str,
        rank: Rank = SOLO,
    ) -> None:
        self.courses, self.program, self.settings, self.device, self.rank = courses, program, settings, device, rank
        self._clock = self._last_save = time.monotonic()
        self._save_seconds = 0.0  # what the last checkpoints of all lanes took

    def run(self) -> None:
        """Every segment up to the last validation; a lane that diverged is marked and the others go on.

        Raises:
            Stopped: the process was asked to end, and every cell is saved.
        """
        for lane, course in enumerate(self.courses):
            course.resume(self.program, lane)
        while under_way := [course for course in self.courses if not course.is_done]:
            self._clock = time.monotonic()
            self._fit(under_way[0].segments[under_way[0].segment], under_way)
            seconds = self._share()
            for lane, course in enumerate(self.courses):
                if course in under_way:
                    course.train_seconds += seconds
                    course.end_segment(self.program, lane)
            self._clock = time.monotonic()
            self._save_if_due()

    def _fit(self, segment: Segment, under_way: Sequence[CellCourse]) -> None:
        """Trains the rest of a segment, or until no lane's loss is finite."""
        self.program.schedule_steps = (segment.stop, segment.stop - segment.start if segment.is_cooldown else 0)
        first, size = max(under_way[0].step, segment.start), self.settings.chunk_steps
        starts = range(first, segment.stop, size)
        chunks = Chunks(tuple((start, min(start + size, segment.stop)) for start in starts))
        done = under_way[0].segments[: under_way[0].segment + 1]
        planned = sum(one.stop - one.start for one in done)  # from the plan, never from a checkpoint
        trainer, module = study_trainer(self.device, self.settings, self.rank), self.program.module(self._after_chunk)
        try:
            with _without_advice():
                trainer.fit(module, train_dataloaders=chunks)
        except _AllDiverged:
            return
        except SIGTERMException:  # Lightning's word for it, between two chunks
            if not stopping.is_asked():
                raise
            self._save_if_due()
        finally:
            module.to(self.device)  # the Trainer leaves everything on the CPU
        for course in under_way:
            if course.finite and course.executed != planned:
                raise RuntimeError(f"{course.executed} steps were taken where {planned} were planned")

    def _after_chunk(self, stop: int, chunk: Chunk) -> None:
        losses = chunk.losses.cpu()  # the one wait of a chunk
        for lane, course in enumerate(self.courses):
            if course.trains:
                course.take(stop, losses[lane], chunk.examples[lane])
        if not any(course.trains for course in self.courses):
            raise _AllDiverged
        self._save_if_due()
        for course in self.courses:
            if course.trains:
                course.tell()

    def _save_if_due(self) -> None:
        """Saves every cell that trains. One that diverged keeps its last checkpoint until its branch has ended."""
        moment, least = time.monotonic(), self.settings.checkpoint_seconds
        due = self._last_save + (least and max(least, self._save_seconds / CHECKPOINT_SHARE))
        asked = stopping.is_asked()
        if not self.rank.leads or (moment < due and not asked):
            return
        seconds = self._share()
        for lane, course in enumerate(self.courses):
            if course.trains:
                course.save(course.snapshot(self.program, lane), course.train_seconds + seconds)
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - moment
        if asked and any(not course.is_done for course in self.courses):
            print("asked to end: saved", flush=True)
            raise stopping.Stopped

    def _share(self) -> float:
        """A cell's part of the seconds since the clock was set: lanes share them equally."""
        num_cells = sum(not course.is_done for course in self.courses)
        return (time.monotonic() - self._clock) / max(1, num_cells)


@dataclass(frozen=True)
class Chunks:
    """The "batches" of a fit; not a list, since a Trainer takes a list for several loaders."""

    chunks: tuple[tuple[int, int], ...]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.chunks)

    def __len__(self) -> int:
        return len(self.chunks)


class _AllDiverged(Exception):  # noqa: N818  # a signal from chunk to fit, not an error
    """No lane's training loss is finite any more."""


def _can_share(cell: Cell) -> bool:
    """Whether the network of a cell may be a lane."""
    shape = (cell.in_channels, cell.image_size, cell.image_size)
    return why_no_lanes(initial_network(cell), shape) is None


def _pool_fits(courses: Sequence[CellCourse], device: str) -> bool:
    """Whether the images of all lanes may lie on the device; runs that do not fit read theirs batch by batch, alone."""
    return fits(2 * pool_bytes([course.batches for course in courses]), torch.device(device))  # twice while it is made


def _groups(courses: Sequence[CellCourse], *, in_lanes: bool) -> list[list[CellCourse]]:
    """Courses that go on together: those at one place, or each by itself."""
    groups: dict[object, list[CellCourse]] = {}
    for course in courses:
        groups.setdefault(course.place if in_lanes else course.cell.id, []).append(course)
    return list(groups.values())


def _program(group: Sequence[CellCourse], settings: EngineSpec, device: str, rank: Rank, *, in_lanes: bool) -> Program:
    """One program for a group, or the loop of a lone cell that needs no lanes."""
    with _without_advice():
        if not in_lanes:
            return ChunkedClassifier(group[0].cell, group[0].batches, rank)
        return LaneProgram(
            [course.cell for course in group],
            [course.batches for course in group],
            device,
            chunk_steps=settings.chunk_steps,
            compile_network=settings.compile,
        )


def _keep_weights(course: CellCourse) -> str:
    """Keeps the weights of every branch; returns the SHA-256 of those that others begin from, empty if it diverged."""
    kept = {
        branch["fraction"]: keep_weights(course.cell, branch["fraction"], branch["weights"], course.store)
        for branch in course.branches
        if branch["weights"] is not None
    }
    return kept.get(START_BRANCH, "")


def study_trainer(device: str, settings: EngineSpec, rank: Rank = SOLO) -> pl.Trainer:
    """A Trainer that does nothing but call `training_step`: loggers, bars and checkpoints are the study's own."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    kind, _, index = device.partition(":")
    first = int(index or 0) - rank.number  # the GPU of the leader; the team's follow each other
    several = rank.count > 1
    with _without_advice():
        return pl.Trainer(
            accelerator="gpu" if kind == "cuda" else kind,
            devices=[first + number for number in range(rank.count)] if kind == "cuda" else rank.count,
            strategy="ddp" if several and settings.strategy == "auto" else settings.strategy,
            sync_batchnorm=several and kind == "cuda",
            use_distributed_sampler=False,  # each process asks for its own share of a batch
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[TeamEnvironment(rank)],  # under Slurm a run must not look for peers of its own accord
        )


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Silences Lightning's advice for ordinary runs: loggers, validation loops, `srun` on a machine that has it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\.")
        yield
