"""What is done to a running study: processes ended or stopped, checkpoints damaged, a second launcher begun."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .processes import Family, family_of

MOST_LAUNCHERS = 4  # at once
LONGEST_STOP = 0.5  # seconds that a process stands still

Inject = Callable[["Scene"], str | None]
"""Does it and says what was done; None where there is nothing yet to do it to."""


@dataclass
class Scene:
    """What a fault finds.

    Attributes:
        launchers: processes of the launchers that run.
        signals: launcher -> the signals it was sent, which explain how it ends.
        begin_launcher: starts one more on the same store.
        kills: signals sent so far that end a process.
    """

    store: Path
    chance: random.Random
    launchers: list[int]
    signals: dict[int, list[int]]
    begin_launcher: Callable[[], int]
    kills: int = 0

    def family(self) -> Family | None:
        """Of one launcher, by chance."""
        return family_of(self.chance.choice(self.launchers)) if self.launchers else None


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        weight: how often it is drawn, relative to the others.
    """

    weight: float
    inject: Inject


def _to_worker(number: signal.Signals) -> Inject:
    def inject(scene: Scene) -> str | None:
        family = scene.family()
        if family is None or not family.workers:
            return None
        return _end(scene, scene.chance.choice(family.workers), number)

    return inject


def _to_launcher(number: signal.Signals) -> Inject:
    def inject(scene: Scene) -> str | None:
        family = scene.family()
        if family is None or family.launcher is None:
            return None
        scene.signals[family.launcher].append(number)
        return _end(scene, family.launcher, number)

    return inject


def _to_forkserver(scene: Scene) -> str | None:
    family = scene.family()
    return None if family is None or family.forkserver is None else _end(scene, family.forkserver, signal.SIGKILL)


def _to_all(scene: Scene) -> str | None:
    family = scene.family()
    if family is None or family.launcher is None or not family.workers:
        return None
    scene.signals[family.launcher].append(signal.SIGKILL)
    os.killpg(family.launcher, signal.SIGKILL)
    scene.kills += 1
    return f"the session of {family.launcher}"


def _pause_worker(scene: Scene) -> str | None:
    family = scene.family()
    return _pause(scene, scene.chance.choice(family.workers)) if family is not None and family.workers else None


def _pause_launcher(scene: Scene) -> str | None:
    family = scene.family()
    return None if family is None or family.launcher is None else _pause(scene, family.launcher)


def _damage(how: Callable[[bytearray, random.Random], bytearray]) -> Inject:
    def inject(scene: Scene) -> str | None:
        """Then a worker is killed, so that some cell is continued from what there is."""
        checkpoints = sorted(scene.store.glob("cells/*/checkpoint.pt"))
        if not checkpoints:
            return None
        path = scene.chance.choice(checkpoints)
        try:
            content = bytearray(path.read_bytes())
            with path.open("r+b") as file:  # the file itself, not one in its place
                file.write(damaged := how(content, scene.chance))
                file.truncate(len(damaged))
        except (OSError, ValueError):  # it has just been finished with
            return None
        killed = _to_worker(signal.SIGKILL)(scene)
        return f"{path.parent.name}" + (f", then {killed}" if killed else "")

    return inject


def _flipped(content: bytearray, chance: random.Random) -> bytearray:
    bit = chance.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    return content


def _join(scene: Scene) -> str | None:
    return f"process {scene.begin_launcher()}" if len(scene.launchers) < MOST_LAUNCHERS else None


def _pause(scene: Scene, pid: int) -> str | None:
    seconds = scene.chance.uniform(0.05, LONGEST_STOP)
    if _send(pid, signal.SIGSTOP) is None:
        return None
    time.sleep(seconds)
    _send(pid, signal.SIGCONT)
    return f"process {pid} for {seconds:.2f} s"


def _end(scene: Scene, pid: int, number: signal.Signals) -> str | None:
    """Sends what ends a process; a worker alone is deaf to Ctrl-C."""
    done = _send(pid, number)
    scene.kills += done is not None and (number != signal.SIGINT or pid in scene.launchers)
    return done


def _send(pid: int, number: signal.Signals) -> str | None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return None
    return f"process {pid}"


FAULTS: Mapping[str, Fault] = {
    "SIGKILL to a worker": Fault(36, _to_worker(signal.SIGKILL)),
    "SIGTERM to a worker": Fault(6, _to_worker(signal.SIGTERM)),
    "SIGUSR2 to a worker": Fault(4, _to_worker(signal.SIGUSR2)),
    "SIGINT to a worker": Fault(2, _to_worker(signal.SIGINT)),
    "SIGKILL to the forkserver": Fault(3, _to_forkserver),
    "SIGKILL to the launcher": Fault(1.5, _to_launcher(signal.SIGKILL)),
    "SIGTERM to the launcher": Fault(0.75, _to_launcher(signal.SIGTERM)),
    "SIGINT to the launcher": Fault(0.75, _to_launcher(signal.SIGINT)),
    "SIGUSR2 to the launcher": Fault(0.5, _to_launcher(signal.SIGUSR2)),
    "SIGKILL to all at once": Fault(0.75, _to_all),
    "SIGSTOP, SIGCONT to a worker": Fault(3, _pause_worker),
    "SIGSTOP, SIGCONT to the launcher": Fault(1, _pause_launcher),
    "checkpoint truncated": Fault(2, _damage(lambda content, chance: content[: chance.randrange(len(content))])),
    "checkpoint emptied": Fault(2, _damage(lambda content, chance: bytearray())),
    "one bit of a checkpoint flipped": Fault(2, _damage(_flipped)),
    "another launcher": Fault(4, _join),
}


def draw(chance: random.Random) -> str:
    """The name of a fault, by its weight."""
    return chance.choices(list(FAULTS), [fault.weight for fault in FAULTS.values()])[0]
