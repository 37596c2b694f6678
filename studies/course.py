"""One cell on its way: its images, where it stands, what it has found so far, and its checkpoint.

Whoever takes the optimiser steps (`program`) tells the course of every chunk; the course keeps the books. All of it is
one dictionary of tensors and numbers, saved between chunks, and the same whether the cell trains alone or in a lane. A
cell that continues from it ends as one that was never interrupted: batches, crops and rates are functions of the step.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from datamodules import PixelPermutation, StepBatches

from .budget import BranchPlan, train_flops
from .cell import Cell
from .checkpoint import load_latest, save_checkpoint
from .engine_spec import EngineSpec
from .environment import now
from .errors import StudyError
from .evaluation import chance, predict
from .job_data import JobData
from .kept_weights import give_start
from .objective import objective_of
from .outcome import TrainedBranch, TrainedCell
from .program import Program, Snapshot, cloned
from .sources import code_version
from .stall import progressed
from .store import Store
from .tracking.live import LiveMirror
from .tracking.runs import train_row, validation_row

PROGRESS_SECONDS = 0.5  # least time between two notes of a running cell's progress
PERMUTATION_SEED = 0  # the control permutes every image of every replicate in the same way


@dataclass(frozen=True)
class Segment:
    """A stretch of steps under one schedule: a piece of the trunk, or a branch's cooldown."""

    branch: BranchPlan
    start: int
    stop: int
    is_cooldown: bool


def segments_of(cell: Cell) -> tuple[Segment, ...]:
    """Trunk pieces and cooldowns in the order they are trained."""
    segments, trunk_steps = [], 0
    for branch in cell.branch_plans:
        segments.append(Segment(branch, trunk_steps, branch.trunk_steps, is_cooldown=False))
        segments.append(Segment(branch, branch.trunk_steps, branch.steps, is_cooldown=True))
        trunk_steps = branch.trunk_steps
    return tuple(segments)


def batches_of(cell: Cell, data: JobData, device: str, *, pooled: bool) -> StepBatches:
    """The training batches of a cell.

    Args:
        pooled: whether a `LaneProgram` keeps the images, so that these batches need not.
    """
    return StepBatches(
        data.train_split(cell.seeds.subset),
        data.rows(cell)[0],
        batch_size=cell.batch_size,
        order_seed=cell.seeds.order,
        augmentation_seed=cell.seeds.augmentation,
        augmentation=cell.augmentation,
        permutation=PixelPermutation(cell.permutation, cell.image_size, cell.permutation_patch, PERMUTATION_SEED),
        normalization=data.normalization(cell.seeds.subset),
        device=device,
        resident=False if pooled else "auto",
    )


class CellCourse:
    """The course of one cell, from its beginning or its checkpoint to its last validation.

    Args:
        pooled: as of `batches_of`.
        leads: whether it tells and saves, which of the processes that train one cell only the leader does.
        live: shows losses and validations while they come; never waits for them to be seen.

    Attributes:
        subset: rows of the training split that are trained on [N].
        validation: rows held out [V].
        segment: which of `segments_of` the cell is in; their number when it is done.
        step: optimiser steps of the schedule behind it in that segment's terms; 0 before the first chunk.
        finite: whether every loss of the present segment was.
        executed: its place in the plan: steps of trunk and cooldowns.
        examples: images the present weights were trained on, counted from the batches; goes back with the trunk.
        total_examples: images trained on in all, trunk and every cooldown.
        losses: loss of every step, float32 [executed steps], in the order of the plan; NaN where there is none.
        resumed: the weights and optimiser its checkpoint holds; whoever trains on takes them.
        start_sha256: of the file of weights it began from; empty where they were drawn.

    Raises:
        StudyError: the data are not the ones planned.
    """

    def __init__(
        self,
        cell: Cell,
        data: JobData,
        store: Store,
        settings: EngineSpec,
        device: str,
        live: LiveMirror | None = None,
        *,
        pooled: bool = False,
        leads: bool = True,
    ) -> None:
        self.cell, self.store, self.settings, self.live, self.leads = cell, store, settings, live, leads
        if (found := data.describe().fingerprint) != cell.data_fingerprint:
            raise StudyError(
                f"the data of {cell.data} have changed since the study was planned (fingerprint {found[:12]}, planned "
                f"{cell.data_fingerprint[:12]}); plan it anew"
            )
        self.subset, self.validation = data.rows(cell)
        self.batches = batches_of(cell, data, device, pooled=pooled)
        self.segments = segments_of(cell)
        self.segment = self.step = self.executed = self.examples = self.total_examples = self.resumes = 0
        self.finite = True
        self.trunk: Snapshot | None = None
        self.branches: list[TrainedBranch] = []
        self.losses = torch.full((cell.executed_steps,), float("nan"))
        self.train_seconds = self.evaluation_seconds = 0.0
        self.started_at, self.start_sha256 = now(), ""
        self.resumed: Snapshot | None = self._load()
        self._shown = self.executed
        self._last_progress = time.monotonic()

    @property
    def place(self) -> tuple[int, int]:
        """Segment and step: cells at one place can go on in lockstep."""
        return self.segment, self.step

    @property
    def is_done(self) -> bool:
        """Whether every segment is behind it."""
        return self.segment == len(self.segments)

    @property
    def trains(self) -> bool:
        """Whether it has steps to take in the present segment."""
        return self.finite and not self.is_done

    def take(self, stop: int, losses: Tensor, examples: int) -> None:
        """Books a chunk that ended before step `stop`.

        Args:
            losses: float32 [steps of the chunk], on the CPU.
            examples: images trained on in it.
        """
        self.losses[self.executed : self.executed + len(losses)] = losses
        self.step, self.executed = stop, self.executed + len(losses)
        self.examples += examples
        self.total_examples += examples
        self.finite = bool(losses.isfinite().all())

    def end_segment(self, program: Program, lane: int) -> None:
        """Validates a cooldown and goes back to the trunk, or keeps the trunk; then stands before the next segment.

        A trunk that diverged takes every branch that would still leave it to chance.
        """
        segment = self.segments[self.segment]
        if segment.is_cooldown:
            self._end_branch(segment.branch, program.network_of(lane) if self.finite and self.leads else None)
            assert self.trunk is not None
            self._restore(self.trunk, program, lane)
            self.segment += 1
        elif self.finite:
            self.trunk = self.snapshot(program, lane)
            self.segment += 1
        else:
            for branch in self.cell.branch_plans[len(self.branches) :]:
                self._end_branch(branch, None)
            self.segment = len(self.segments)
        self.step, self.finite = 0, True
        if not self.is_done:  # a cooldown that diverged has left steps out
            self.executed = sum(one.stop - one.start for one in self.segments[: self.segment])

    def resume(self, program: Program, lane: int) -> None:
        """Gives a lane the weights and the optimiser of the checkpoint, if there was one, else those it begins from."""
        if self.resumed is not None:
            self._restore(self.resumed, program, lane)
            self.resumed = None
        elif self.cell.start is not None:
            network = program.network_of(lane)
            self.start_sha256 = give_start(network, self.cell, self.store)
            begun = self.snapshot(program, lane) | {"network": cloned(network.state_dict())}
            self._restore(begun, program, lane)

    def snapshot(self, program: Program, lane: int) -> Snapshot:
        """Weights and optimiser of a lane, and the images they have seen."""
        return program.snapshot(lane) | {"examples": self.examples}

    def tell(self) -> None:
        """Tells other processes how far the cell is, at most every half second."""
        moment = time.monotonic()
        if self.leads and moment - self._last_progress > PROGRESS_SECONDS:
            self._last_progress = moment
            self.store.write_progress(self.cell.id, self.executed, self.cell.executed_steps)
            self._show_loss()

    def save(self, snapshot: Snapshot, train_seconds: float) -> None:
        """Writes the checkpoint.

        Args:
            snapshot: what `snapshot` gave just now.
            train_seconds: seconds of training so far.
        """
        state = {
            "cell_id": self.cell.id,
            "code": _code(),
            "segment": self.segment,
            "step": self.step,
            "trunk": self.trunk,
            "branches": self.branches,
            "train_seconds": train_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "resumes": self.resumes,
            "started_at": self.started_at,
            "start_sha256": self.start_sha256,
            "now": snapshot,
            "executed": self.executed,
            "total_examples": self.total_examples,
            "losses": self.losses,
        }
        save_checkpoint(state, self._checkpoint_path)
        self.store.write_place(self.cell.id, self.place)
        progressed()

    def trained(self, network: nn.Module) -> TrainedCell:
        """What there is to assess, with any network of the cell's architecture."""
        return TrainedCell(
            cell=self.cell,
            network=network,
            batches=self.batches,
            subset=self.subset,
            validation=self.validation,
            branches=self.branches,
            losses=self.losses.double(),
            total_examples=self.total_examples,
            train_seconds=self.train_seconds,
            validation_seconds=self.evaluation_seconds,
            resumes=self.resumes,
            started_at=self.started_at,
            start_sha256=self.start_sha256,
        )

    def _end_branch(self, branch: BranchPlan, network: nn.Module | None) -> None:
        """Validates the network and keeps its weights as those of `branch`; None where the loss was not finite."""
        started = time.monotonic()
        objective = objective_of(self.cell)
        error, loss = chance(objective.num_answers)
        if network is not None:
            found = predict(network, self.batches, objective, self.cell.precision, indices=self.validation)
            if math.isfinite(found.loss):
                error, loss = found.error, found.loss
            else:
                network = None
        kept: TrainedBranch = {
            "fraction": branch.fraction,
            "weights": None if network is None else cloned(network.state_dict()),
            "examples": self.examples,
            "validation_error": error,
            "validation_loss": loss,
        }
        self.branches.append(kept)
        self.evaluation_seconds += time.monotonic() - started
        if self.live is not None:
            self.live.log(validation_row(branch.fraction, *self._cost(branch.steps), error, loss))

    def _restore(self, snapshot: Snapshot, program: Program, lane: int) -> None:
        program.restore(lane, snapshot)
        self.examples = snapshot["examples"]

    def _show_loss(self) -> None:
        """The mean loss since the last look, under the name it has in the run of the finished cell."""
        if self.live is not None and self.executed > self._shown:
            segment = self.segments[self.segment]
            loss = float(self.losses[self._shown : self.executed].mean())
            branch = segment.branch.fraction if segment.is_cooldown else 0.0
            self.live.log(train_row(branch, *self._cost(self.step), loss))
        self._shown = self.executed

    def _cost(self, step: int) -> tuple[int, int]:
        """Training FLOPs and images up to a step of the schedule."""
        examples = step * self.cell.batch_size
        return train_flops(self.cell.forward_flops, examples), examples

    @property
    def _checkpoint_path(self) -> Path:
        return self.store.cell_folder(self.cell.id) / "checkpoint.pt"

    def _load(self) -> Snapshot | None:
        """Takes everything from the checkpoint, if there is one; its weights and optimiser are returned.

        One that other code has written is left: half of a cell by each would be the result of neither.
        """
        saved = load_latest(self._checkpoint_path)
        if saved is None or saved.get("cell_id") != self.cell.id:
            return None
        if saved.get("code") != _code():
            print(f"begins anew: its checkpoint is of {saved.get('code', 'older code')}, this is {_code()}", flush=True)
            return None
        for name in ("segment", "step", "trunk", "branches", "train_seconds", "evaluation_seconds", "started_at"):
            setattr(self, name, saved[name])
        self.executed, self.total_examples = saved["executed"], saved["total_examples"]
        self.losses.copy_(saved["losses"])
        self.resumes = saved["resumes"] + 1
        self.start_sha256 = saved.get("start_sha256", "")
        snapshot: Snapshot = saved["now"]
        self.examples = snapshot["examples"]
        return snapshot


def _code() -> str:
    """What a checkpoint may be continued with: this code and this torch."""
    return f"{code_version()}, torch {torch.__version__}"
