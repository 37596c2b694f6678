"""The engine `ray` on a cluster of two nodes that really run, on this machine, and are really killed."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from studies import running
from studies.compose import compose_study
from studies.records import DETERMINISTIC_COLUMNS, records_frame
from studies.store import Store

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install ray"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds actors in /proc"),
]

STUDY = (
    "data_scaling",
    "name=clustered",
    "data.num_train=1200",
    "data.num_test=500",
    "families=[resnet]",
    "num_train=[64,256]",
    "num_validation=100",
    "replicates=2",
    "primary_pair=null",
    "budget.steps=240",
    "budget.batch_size=64",
    "recipe.tuning=null",
    "tracking=off",
    "engine.checkpoint_seconds=0",
    "engine.chunk_steps=5",
)
SECONDS = 600.0  # for what takes a few on an idle machine


class Nodes(NamedTuple):
    """A cluster: its address, each node's raylet, and what a launcher needs in its environment."""

    address: str
    raylets: tuple[int, int]
    environment: dict[str, str]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Two nodes of one CPU each, that answer only who has their token."""
    folder = Path("/tmp") / f"ray-{secrets.token_hex(4)}"  # sockets lie in it, and their paths may not be long
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_worker_niceness": "0",  # by default Ray has actors stand back behind everything else on the machine
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(Path(__file__).with_name("ray_nodes.py"))]
    with (tmp_path / "nodes.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = process.stdout.readline()
        assert line, (tmp_path / "nodes.log").read_text()
        told = json.loads(line)
        yield Nodes(told["address"], tuple(told["raylets"]), environment)
    finally:
        process.stdin.close()
        process.wait(SECONDS)
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the local engine makes of the study."""
    store = tmp_path_factory.mktemp("local")
    result = running.run(compose_study(STUDY[0], STUDY[1:]), Store(store))
    assert set(result.states.values()) == {"finished"}
    return deterministic(store)


def start(store: Path, nodes: Nodes, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", "from studies.__main__ import main; main()", "run", *STUDY, *more]
    hiding = store.with_name("started in") / "models"  # not ours, though it lies in the working folder
    hiding.mkdir(parents=True, exist_ok=True)
    (hiding / "__init__.py").write_text("raise ImportError('this is another package')")
    log = store.with_name("launcher.log").open("ab")
    with log:
        return subprocess.Popen(
            [*command, "engine=ray", f"engine.address={nodes.address}", "--store", str(store)],
            cwd=hiding.parent,
            env=nodes.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def told(store: Path) -> str:
    return store.with_name("launcher.log").read_text()


def locked(store: Path) -> list[str]:
    return [cell_id for cell_id in Store(store).cell_ids() if Store(store).is_locked(cell_id)]


def wait_until(condition: Any, process: subprocess.Popen[bytes], store: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen in time: {told(store)}"
        assert process.poll() is None, told(store)
        time.sleep(0.02)


def actors(raylet: int | None = None) -> dict[int, int]:
    """Processes of our actors and the raylets that started them."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command, fields = (path / "cmdline").read_bytes(), (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if command.startswith(b"ray::RayWorker") and fields[0] != "Z":
            found[int(path.name)] = int(fields[1])
    return {process: parent for process, parent in found.items() if raylet in (None, parent)}


def deterministic(store: Path) -> list[dict[str, Any]]:
    found = Store(store)
    frame = records_frame(found.records(found.plan("clustered")))
    assert "weights_sha256" in DETERMINISTIC_COLUMNS
    return frame[list(DETERMINISTIC_COLUMNS)].to_dict("records")


def checkpoints(store: Path) -> set[Path]:
    return set(store.glob("cells/*/checkpoint.pt.sha256"))


def takes(store: Path) -> dict[str, list[str]]:
    """Cell -> processes that took it up, in their order."""
    lines = {path.parent.name: path.read_text().splitlines() for path in store.glob("cells/*/log.txt")}
    return {cell_id: [line.split()[2] for line in log if " takes up " in line] for cell_id, log in lines.items()}


def test_killed_actors_and_nodes_cost_nothing(tmp_path: Path, nodes: Nodes, undisturbed: list[dict[str, Any]]) -> None:
    store = tmp_path / "store"
    launcher = start(store, nodes)
    ours = nodes.raylets
    wait_until(
        lambda: len(actors(ours[0])) + len(actors(ours[1])) == 2 and len(checkpoints(store)) == 2, launcher, store
    )
    assert all(len(actors(raylet)) == 1 for raylet in ours), "one actor on each node"
    (victim,) = actors(ours[0])
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: set(actors(ours[0])) - {victim}, launcher, store)  # another in its place
    os.kill(ours[1], signal.SIGKILL)  # the node is lost, and its actor with it
    launcher.wait(SECONDS)
    assert launcher.returncode == 0, told(store)
    assert "4 finished" in told(store)
    assert deterministic(store) == undisturbed
    assert max(map(len, takes(store).values())) > 1, "nothing was interrupted"


def test_without_its_launcher_nothing_runs_on(tmp_path: Path, nodes: Nodes, undisturbed: list[dict[str, Any]]) -> None:
    store = tmp_path / "store"
    launcher = start(store, nodes)
    wait_until(lambda: checkpoints(store), launcher, store)
    launcher.kill()
    launcher.wait()
    killed = time.monotonic()
    while any(actors(raylet) for raylet in nodes.raylets) or locked(store):
        assert time.monotonic() - killed < 60, "actors outlive their launcher"
        time.sleep(0.05)

    # Ctrl-C, as a terminal sends it: to the whole group.
    launcher = start(store, nodes)
    before = {path: path.stat().st_mtime_ns for path in checkpoints(store)}
    wait_until(lambda: {p: p.stat().st_mtime_ns for p in checkpoints(store)}.items() - before.items(), launcher, store)
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(SECONDS) == 130, told(store)
    assert told(store).count("interrupted: ") == 1
    assert "Traceback" not in told(store)
    ended = time.monotonic()
    while locked(store):  # actors are killed, and a process lets go of its files a moment after it is gone from view
        assert time.monotonic() - ended < 60, "actors outlive their launcher"
        time.sleep(0.05)

    launcher = start(store, nodes)
    assert launcher.wait(SECONDS) == 0, told(store)
    assert deterministic(store) == undisturbed


def test_who_has_not_the_clusters_token_is_refused(tmp_path: Path, nodes: Nodes) -> None:
    store = tmp_path / "store"
    stranger = nodes._replace(environment=nodes.environment | {"RAY_AUTH_TOKEN": "0" * 64})
    launcher = start(store, stranger)
    assert launcher.wait(SECONDS) == 2, told(store)
    assert "no connection to the Ray cluster" in told(store)
    assert "Traceback" not in told(store)
    assert not list(store.glob("cells/*/record.json"))
