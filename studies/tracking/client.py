"""The one module that imports wandb. It runs as a process of its own: `python -m studies.tracking.client VERB`.

`server` prints where wandb would send runs. `write` reads a job from standard input and writes its runs, leaving a
marker file per finished run. `live` reads a run and then its rows, line by line, until its parent closes the pipe.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from studies.files import write_text

STEP_METRICS = ("train_flops", "examples")
"""Logged in every row: training FLOPs are the x-axis of all metrics, images seen the other one to choose."""

GIVE_UP_AFTER = 3  # runs failing in a row
LIVE_FINISH_SECONDS = 60.0  # to hand over what is left once the parent is gone


def write_runs(wandb: Any, job: Mapping[str, Any]) -> list[str]:  # noqa: ANN401 - the wandb module, or one like it
    """Writes the runs of a job, each marked as soon as it is whole.

    Args:
        wandb: the client.
        job: `folder`, `mode`, `project`, `entity` and `runs` (`studies.tracking.runs`).

    Returns:
        What went wrong, a line per failed run; gives up after three failures in a row.
    """
    problems: list[str] = []
    in_a_row = 0
    for run in job["runs"]:
        try:
            _write_run(wandb, run, job)
            in_a_row = 0
        except Exception as error:  # whatever the client does, the other runs and the caller go on
            with contextlib.suppress(Exception):
                wandb.finish(exit_code=1)
            problems.append(f"{run['name']}: {type(error).__name__}: {error}")
            in_a_row += 1
            if in_a_row == GIVE_UP_AFTER:
                problems.append(f"gave up after {GIVE_UP_AFTER} failures in a row")
                break
    return problems


def _write_run(wandb: Any, run: Mapping[str, Any], job: Mapping[str, Any]) -> None:  # noqa: ANN401
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(wandb, run, job) as opened:
        for row in run["history"]:
            opened.log(row)
        if "table" in run:
            opened.log({"curves": wandb.Table(columns=run["table"]["columns"], data=run["table"]["rows"])})
        for name, path in run.get("images", {}).items():
            opened.log({f"figures/{name}": wandb.Image(path)})
        opened.summary.update(run["summary"])
        run_folder, address = str(Path(opened.dir).parent), opened.url
    marker = {"digest": run["digest"], "mode": job["mode"], "folder": run_folder, "url": address}
    write_text(folder / f"{run['id']}.json", json.dumps(marker | {"synced": job["mode"] == "online"}))


@contextlib.contextmanager
def _opened(wandb: Any, run: Mapping[str, Any], job: Mapping[str, Any]) -> Iterator[Any]:  # noqa: ANN401
    opened = wandb.init(
        id=run["id"],
        name=run["name"],
        group=run["group"],
        job_type=run["job_type"],
        tags=run["tags"],
        notes=run["notes"],
        config=run["config"],
        project=job["project"],
        entity=job["entity"],
        mode=job["mode"],
        dir=job["folder"],
        reinit="finish_previous",
        settings=wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            silent=True,
            init_timeout=30,
            x_disable_meta=True,  # the record's own environment is in the config
            x_disable_stats=True,
        ),
    )
    for metric in STEP_METRICS:
        opened.define_metric(metric)
    for pattern in ("train/*", "validation/*", "test/*"):
        opened.define_metric(pattern, step_metric=STEP_METRICS[0])
    yield opened
    opened.finish()


def follow(wandb: Any, lines: Iterator[str]) -> None:  # noqa: ANN401
    """Shows a running cell: the first line is the job, with its run and the file for its address, the others rows."""
    job = json.loads(next(lines))
    with _opened(wandb, job["run"], job) as opened:
        write_text(Path(job["status"]), json.dumps({"url": opened.url}), durable=False)
        for line in lines:
            opened.log(json.loads(line))
        watchdog = threading.Timer(LIVE_FINISH_SECONDS, os._exit, [1])
        watchdog.daemon = True
        watchdog.start()
    watchdog.cancel()


def server(wandb_setup: Any) -> dict[str, Any]:  # noqa: ANN401
    """Address of the server that wandb is set up for, and whether there is a key for it."""
    settings = wandb_setup.singleton().settings
    has_key = bool(settings.api_key or getattr(settings, "identity_token_file", None))
    if not has_key:
        with contextlib.suppress(Exception):  # wandb's reading of .netrc is not a stable interface
            wbauth = importlib.import_module("wandb.sdk.lib.wbauth")
            has_key = wbauth.read_netrc_auth(host=settings.base_url) is not None
    return {"address": settings.base_url, "has_key": has_key}


def main(verb: str) -> int:
    """Runs one verb; standard output carries nothing but its answer."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if verb == "server":
        print(json.dumps(server(importlib.import_module("wandb.sdk.wandb_setup"))), file=answer, flush=True)
        return 0
    wandb = importlib.import_module("wandb")
    if verb == "live":
        follow(wandb, iter(sys.stdin))
        return 0
    problems = write_runs(wandb, json.load(sys.stdin))
    print(json.dumps(problems), file=answer, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
