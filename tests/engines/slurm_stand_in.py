"""Stands in for Slurm's commands where it is not installed: jobs run here, at once, and are kept track of in files.

It does what the engine relies on: arrays, states, output files, signals to the tasks of a job, requeueing.
`sbatch` starts a supervisor for every job, which outlives it; $STAND_IN_JOBS/<array>_<index>.* is all that it knows.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

JOBS = Path(os.environ["STAND_IN_JOBS"])


def sbatch(script: str) -> None:
    options = dict(
        (line.removeprefix("#SBATCH --").partition("=")[::2])
        for line in (" ".join(shlex.split(line)) for line in Path(script).read_text().splitlines())
        if line.startswith("#SBATCH --")
    )
    if options.get("partition", "short") != "short":
        sys.exit("sbatch: error: Batch job submission failed: Invalid partition name specified")
    array = str(1 + max((int(path.stem.split("_")[0]) for path in JOBS.glob("*.state")), default=0))
    last = int(re.match(r"0-(\d+)", options["array"])[1]) if "array" in options else None
    copy = JOBS / f"{array}.sh"
    copy.write_text(Path(script).read_text())
    (JOBS / f"{array}.name").write_text(options["job-name"])
    for index in range((last or 0) + 1):
        job = array if last is None else f"{array}_{index}"
        set_state(job, "PENDING", "JobHeldUser" if "hold" in options else "None")
        if "hold" not in options:
            command = [sys.executable, __file__, "supervise", job, str(copy), options["output"], options["error"]]
            nowhere = subprocess.DEVNULL  # who submits waits until nobody can print to it any more
            subprocess.Popen(command, start_new_session=True, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    print(f"Submitted batch job {array}")


def supervise(job: str, script: str, output: str, error: str) -> None:
    array, _, index = job.partition("_")
    environment = dict(os.environ) | {"SLURM_JOB_ID": str(1000 + int(array)), "SLURM_CPUS_PER_TASK": "1"}
    if index:
        environment |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": index}
    else:
        environment["SLURM_JOB_ID"] = array
    restarts = 0
    while True:
        environment["SLURM_RESTART_COUNT"] = str(restarts)
        set_state(job, "RUNNING", "None")
        with Path(formatted(output, job)).open("ab") as out, Path(formatted(error, job)).open("ab") as err:
            ended = subprocess.run(["bash", script], env=environment, stdout=out, stderr=err, check=False)
        if state(job) == "CANCELLED":
            return
        if not (JOBS / f"{job}.requeue").exists():
            set_state(job, *(("FAILED", "NonZeroExitCode") if ended.returncode else ("COMPLETED", "None")))
            return
        (JOBS / f"{job}.requeue").unlink()
        restarts += 1


def srun(*arguments: str) -> None:
    given = list(arguments)
    paths = {}
    while given[0].startswith("--"):
        option = given.pop(0)
        if option in ("--output", "--error"):
            paths[option] = given.pop(0)
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{index}" if array else os.environ["SLURM_JOB_ID"]
    output, error = (Path(formatted(paths[option], job)) for option in ("--output", "--error"))
    with output.open("ab") as out, error.open("ab") as err:
        task = subprocess.Popen(given, env=dict(os.environ) | {"SLURM_PROCID": "0"}, stdout=out, stderr=err)
    (JOBS / f"{job}.pid").write_text(str(task.pid))
    sys.exit(abs(task.wait()))


def squeue(*arguments: str) -> None:
    asked = dict(one.partition("=")[::2] for one in arguments)
    if "--name" in asked:
        named = [path.stem for path in JOBS.glob("*.name") if path.read_text() == asked["--name"]]
        jobs = [job for array in named for job in jobs_of(array)]
    elif not (jobs := jobs_of(asked["--jobs"])):
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    for job in jobs:
        print("|".join([job, *(JOBS / f"{job}.state").read_text().split("|"), "here"]))


def scancel(*arguments: str) -> None:
    only_waiting = "--state=PENDING" in arguments
    numbers = [one.removeprefix("--signal=") for one in arguments if one.startswith("--signal=")]
    for job in jobs_of(arguments[-1]):
        before = state(job)
        if before not in ("PENDING", "RUNNING") or (only_waiting and before != "PENDING"):
            continue
        if not numbers:
            set_state(job, "CANCELLED", "None")
        if before == "RUNNING":
            signal_task(job, getattr(signal, f"SIG{numbers[0]}") if numbers else signal.SIGTERM)


def scontrol(verb: str, job: str) -> None:
    assert verb == "requeue"
    (JOBS / f"{job}.requeue").touch()
    signal_task(job, signal.SIGTERM)


def jobs_of(name: str) -> list[str]:
    known = sorted(path.stem for path in JOBS.glob("*.state"))
    return [job for job in known if job == name or job.split("_")[0] == name]


def state(job: str) -> str:
    return (JOBS / f"{job}.state").read_text().split("|")[0]


def set_state(job: str, name: str, reason: str) -> None:
    temporary = JOBS / f"{job}.state.{os.getpid()}"
    temporary.write_text(f"{name}|{reason}")
    temporary.rename(JOBS / f"{job}.state")


def signal_task(job: str, number: int) -> None:
    deadline = time.monotonic() + 5
    while not (JOBS / f"{job}.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((JOBS / f"{job}.pid").read_text()), number)


def formatted(path: str, job: str) -> str:
    array, _, index = job.partition("_")
    return path.replace("%A", array).replace("%a", index).replace("%j", job).replace("%t", "0")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
