"""One cell trained: trunk, cooldowns, validation, then the record; the only module that builds a Trainer.

The state of a cell is one dictionary of tensors and numbers. It is saved between chunks, and a cell that continues from
it ends with the same bits as one that was never interrupted: batches, crops and rates are functions of the step.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import logging
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

from datamodules import DataConfig, PixelPermutation, StepBatches, carve_validation, nested_subset

from .budget import BranchPlan, train_flops
from .checkpoint import load_latest, save_checkpoint
from .chunked import ChunkedClassifier
from .environment import environment
from .errors import StudyError
from .evaluation import chance, error_and_loss, predict
from .outcome import TrainedBranch, TrainedCell, assess
from .planning import Cell
from .records import Record
from .spec import EngineSpec
from .store import Store
from .tracking.live import LiveMirror
from .tracking.runs import train_row, validation_row

PROGRESS_SECONDS = 0.5  # least time between two notes of a running cell's progress
PERMUTATION_SEED = 0  # the control permutes every image of every replicate in the same way


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
    trained = _CellTraining(cell, data, store, settings, device, live).run()
    # Validation has had its say; only now is the test split read, once, for all branches together; never in a tuning.
    test = data.load("test", seed=cell.seeds.subset) if cell.reads_test else None
    record, predictions = assess(trained, test, study_id, plan_hash, environment(device), _now())
    if live is not None:
        record = record.model_copy(update={"wandb_url": live.close().url or ""})
    if settings.keep_checkpoints:
        for branch in trained.branches:
            if branch["weights"] is not None:
                save_checkpoint(branch["weights"], store.weights_path(cell.id, branch["fraction"]))
    record = store.write_record(record, predictions)
    store.finish_cell(cell.id)
    return record


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
        finished_at=_now(),
        environment=environment("cpu"),
    )


@dataclass(frozen=True)
class _Segment:
    """A stretch of steps under one schedule: a piece of the trunk, or a branch's cooldown."""

    branch: BranchPlan
    start: int
    stop: int
    is_cooldown: bool


@dataclass(frozen=True)
class _Chunks:
    """The "batches" of a fit; not a list, since a Trainer takes a list for several loaders."""

    chunks: tuple[tuple[int, int], ...]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.chunks)

    def __len__(self) -> int:
        return len(self.chunks)


class _Diverged(Exception):  # noqa: N818  # a signal from chunk to cell, not an error
    """The training loss is no longer finite."""


class _CellTraining:
    """The trunk and the cooldowns of one cell, up to the last validation."""

    def __init__(
        self,
        cell: Cell,
        data: DataConfig,
        store: Store,
        settings: EngineSpec,
        device: str,
        live: LiveMirror | None = None,
    ) -> None:
        if device == "cpu":
            torch.set_num_threads(1)
        self.cell, self.store, self.settings, self.device, self.live = cell, store, settings, device, live
        if (found := data.describe().fingerprint) != cell.data_fingerprint:
            raise StudyError(
                f"the data of {cell.data} have changed since the study was planned (fingerprint {found[:12]}, planned "
                f"{cell.data_fingerprint[:12]}); plan it anew"
            )
        self.train_split = data.load("train", seed=cell.seeds.subset)
        labels = self.train_split.labels
        pool, self.validation = carve_validation(labels, cell.num_validation, seed=cell.seeds.subset)
        self.subset = pool[nested_subset(labels[pool], cell.num_train, seed=cell.seeds.subset)]
        self.batches = StepBatches(
            self.train_split,
            self.subset,
            batch_size=cell.batch_size,
            order_seed=cell.seeds.order,
            augmentation_seed=cell.seeds.augmentation,
            augmentation=cell.augmentation,
            permutation=PixelPermutation(cell.permutation, cell.image_size, seed=PERMUTATION_SEED),
            device=device,
        )
        with _without_advice():
            self.classifier = ChunkedClassifier(cell, self.batches, self._after_chunk)
        self.segments = _segments(cell)
        self.state: dict[str, Any] = {
            "cell_id": cell.id,
            "segment": 0,
            "step": 0,
            "trunk": None,
            "branches": [],
            "train_seconds": 0.0,
            "evaluation_seconds": 0.0,
            "resumes": 0,
            "started_at": _now(),
        }
        self._resume()
        self._clock = self._last_save = self._last_progress = time.monotonic()
        self._shown = self.classifier.executed

    def run(self) -> TrainedCell:
        """Every segment that is still to do, in order."""
        while self.state["segment"] < len(self.segments):
            segment = self.segments[self.state["segment"]]
            finite = self._fit(segment)
            self.state["train_seconds"] += self._lap()
            if segment.is_cooldown:
                self._end_branch(segment.branch, diverged=not finite)
                self._restore(self.state["trunk"])
                self.state["evaluation_seconds"] += self._lap()
            elif finite:
                self.state["trunk"] = self._snapshot()
            else:  # every branch that would leave the trunk from here on is at chance
                done = len(self.state["branches"])
                for branch in self.cell.branch_plans[done:]:
                    self._end_branch(branch, diverged=True)
                break
            self.state["segment"] += 1
            self.state["step"] = 0
            self._save_if_due()
        return TrainedCell(
            cell=self.cell,
            network=self.classifier.network,
            batches=self.batches,
            subset=self.subset,
            validation=self.validation,
            branches=self.state["branches"],
            losses=self.classifier.losses.double().cpu(),
            total_examples=self.classifier.total_examples,
            train_seconds=self.state["train_seconds"],
            validation_seconds=self.state["evaluation_seconds"],
            resumes=self.state["resumes"],
            started_at=self.state["started_at"],
        )

    def _fit(self, segment: _Segment) -> bool:
        """Trains the rest of a segment; False where the loss stopped being finite."""
        classifier = self.classifier
        classifier.schedule_steps = (segment.stop, segment.stop - segment.start if segment.is_cooldown else 0)
        first, size = max(self.state["step"], segment.start), self.settings.chunk_steps
        starts = range(first, segment.stop, size)
        chunks = _Chunks(tuple((start, min(start + size, segment.stop)) for start in starts))
        done = self.segments[: self.state["segment"] + 1]
        planned = sum(one.stop - one.start for one in done)  # from the plan, never from a checkpoint
        trainer = _trainer(self.device)
        try:
            with _without_advice():
                trainer.fit(classifier, train_dataloaders=chunks)
        except _Diverged:
            return False
        finally:
            classifier.to(self.device)  # the Trainer leaves everything on the CPU
        if classifier.executed != planned:
            raise RuntimeError(f"{classifier.executed} steps were taken where {planned} were planned")
        return True

    def _after_chunk(self, step: int) -> None:
        self.state["step"] = step
        recent = self.classifier.losses[: self.classifier.executed][-self.settings.chunk_steps :]
        if not bool(recent.isfinite().all()):
            raise _Diverged
        self._save_if_due()
        now = time.monotonic()
        if now - self._last_progress > PROGRESS_SECONDS:
            self._last_progress = now
            self.store.write_progress(self.cell.id, self.classifier.executed, self.cell.executed_steps)
            self._show_loss()

    def _end_branch(self, branch: BranchPlan, *, diverged: bool) -> None:
        """Validates the present weights and keeps them as those of `branch`."""
        error, loss = chance(self.cell.num_classes)
        if not diverged:
            found = predict(self.classifier.network, self.batches, self.cell.precision, indices=self.validation)
            measured_error, measured_loss = error_and_loss(*found)
            diverged = not math.isfinite(measured_loss)
            if not diverged:
                error, loss = measured_error, measured_loss
        kept: TrainedBranch = {
            "fraction": branch.fraction,
            "weights": None if diverged else _copied(self.classifier.network.state_dict()),
            "examples": self.classifier.examples,
            "validation_error": error,
            "validation_loss": loss,
        }
        self.state["branches"].append(kept)
        if self.live is not None:
            self.live.log(validation_row(branch.fraction, *self._cost(branch.steps), error, loss))

    def _show_loss(self) -> None:
        """The mean loss since the last look, under the name it has in the run of the finished cell."""
        if self.live is not None and self.classifier.executed > self._shown:
            segment = self.segments[self.state["segment"]]
            loss = float(self.classifier.losses[self._shown : self.classifier.executed].mean())
            branch = segment.branch.fraction if segment.is_cooldown else 0.0
            self.live.log(train_row(branch, *self._cost(self.state["step"]), loss))
        self._shown = self.classifier.executed

    def _cost(self, step: int) -> tuple[int, int]:
        """Training FLOPs and images up to a step of the schedule."""
        examples = step * self.cell.batch_size
        return train_flops(self.cell.forward_flops, examples), examples

    def _snapshot(self) -> dict[str, Any]:
        return {
            "network": _copied(self.classifier.network.state_dict()),
            "optimizer": copy.deepcopy(self.classifier.optimizer.state_dict()),
            "examples": self.classifier.examples,
        }

    def _restore(self, snapshot: dict[str, Any]) -> None:
        self.classifier.network.load_state_dict(snapshot["network"])
        self.classifier.optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))
        self.classifier.examples = snapshot["examples"]

    @property
    def _checkpoint_path(self) -> Path:
        return self.store.cell_folder(self.cell.id) / "checkpoint.pt"

    def _save_if_due(self) -> None:
        now = time.monotonic()
        if now - self._last_save < self.settings.checkpoint_seconds:
            return
        self._last_save = now
        training = {
            "now": self._snapshot(),
            "executed": self.classifier.executed,
            "total_examples": self.classifier.total_examples,
            "losses": self.classifier.losses,
            "train_seconds": self.state["train_seconds"] + now - self._clock,
        }
        save_checkpoint(self.state | training, self._checkpoint_path)

    def _resume(self) -> None:
        saved = load_latest(self._checkpoint_path)
        if saved is None or saved.get("cell_id") != self.cell.id:
            return
        self._restore(saved.pop("now"))
        self.classifier.executed = saved.pop("executed")
        self.classifier.total_examples = saved.pop("total_examples")
        self.classifier.losses.copy_(saved.pop("losses"))
        self.state = saved
        self.state["resumes"] += 1

    def _lap(self) -> float:
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        return seconds


def _segments(cell: Cell) -> tuple[_Segment, ...]:
    segments, trunk_steps = [], 0
    for branch in cell.branch_plans:
        segments.append(_Segment(branch, trunk_steps, branch.trunk_steps, is_cooldown=False))
        segments.append(_Segment(branch, branch.trunk_steps, branch.steps, is_cooldown=True))
        trunk_steps = branch.trunk_steps
    return tuple(segments)


def _trainer(device: str) -> pl.Trainer:
    """A Trainer that does nothing but call `training_step`: loggers, bars and checkpoints are the study's own."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    kind, _, index = device.partition(":")
    with _without_advice():
        return pl.Trainer(
            accelerator="gpu" if kind == "cuda" else kind,
            devices=[int(index)] if index else 1,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[LightningEnvironment()],  # under Slurm a single-device run must not look for peers
        )


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Silences Lightning's advice for ordinary runs: loggers, validation loops, hyper-parameters it cannot pickle."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\.")
        yield


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
