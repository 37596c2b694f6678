"""What every engine offers: it is given cells of a locked plan, and says what became of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from studies.engine_spec import EngineSpec, RaySpec
from studies.grid import Plan
from studies.slurm_spec import SlurmSpec
from studies.store import Store
from studies.tracking import TrackingSpec


@dataclass
class Outcome:
    """What an engine's run came to.

    Attributes:
        recorded: cells that have a record now.
        incomplete: cell id -> why it has none; they continue at the next call.
        warnings: what a person should know of the run itself.
    """

    recorded: list[str] = field(default_factory=list)
    incomplete: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __add__(self, other: Outcome) -> Outcome:
        """What two runs, one after the other, came to."""
        return Outcome(
            [*self.recorded, *other.recorded],
            self.incomplete | other.incomplete,
            [*self.warnings, *other.warnings],
        )


class Engine(Protocol):
    """Trains cells somewhere. The store alone knows what is done: an engine only hands out what is left."""

    def run(self, cell_ids: Sequence[str]) -> Outcome:
        """Trains the cells; returns when each is recorded or given up. On any exception nothing of it runs on."""


def make_engine(
    store: Store,
    plan: Plan,
    settings: EngineSpec,
    tracking: TrackingSpec,
    on_poll: Callable[[Sequence[str]], None] = lambda running: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> Engine:
    """The engine that the settings name.

    Args:
        on_poll: called a few times per second with the ids of the cells running in this launcher.
        on_message: called with what a person should know meanwhile.
    """
    if isinstance(settings, SlurmSpec):
        from .slurm import SlurmEngine

        return SlurmEngine(store, plan, settings, tracking, on_poll, on_message)
    if isinstance(settings, RaySpec):
        from .ray_engine import RayEngine

        return RayEngine(store, plan, settings, tracking, on_poll)
    from .local import LocalEngine

    return LocalEngine(store, plan, settings, tracking, on_poll)


def worker_devices(settings: EngineSpec) -> list[str]:
    """The first device of each worker that the engine would have: `cpu`, or `cuda:0`, `cuda:1`, ...

    Raises:
        ConfigError: the machines the engine runs on have not what was asked for, or cannot be asked.
    """
    if isinstance(settings, SlurmSpec):
        return settings.expected_devices
    if isinstance(settings, RaySpec):
        from .ray_cluster import cluster_devices

        return cluster_devices(settings)
    from .local import devices

    return devices(settings)
