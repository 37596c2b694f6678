"""What the user asked of the W&B mirror, and the mode this machine allows: decided once, before wandb is imported."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from studies.strict import Strict

PROBE_SECONDS = 30.0  # to ask an installed wandb for its server address and whether it has a key; import included
CONNECT_SECONDS = 2.0

_OVERRIDING = (
    "RUN_ID",
    "RESUME",
    "RUN_GROUP",
    "JOB_TYPE",
    "NAME",
    "SWEEP_ID",
    "TAGS",
    "NOTES",
    "DIR",
    "PROJECT",
    "ENTITY",
)


class TrackingSpec(Strict):
    """The mirror of a study in W&B.

    Attributes:
        kind: `off` writes nothing.
        mode: `offline` writes runs beside the study, for `study sync` later; `online` sends them at once, and falls
            back to offline where there is no key or no server.
        project: W&B project.
        entity: W&B user or team; the account's default if None.
        timeout_seconds: most seconds the mirror may take beyond one (offline) or five (online) per run.
    """

    kind: Literal["wandb", "off"] = "off"
    mode: Literal["offline", "online"] = "offline"
    project: Annotated[str, Field(min_length=1)] = "inductive-bias-study"
    entity: str | None = None
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0


@dataclass(frozen=True)
class Decision:
    """The mode in which the client may run, and why it is not the one asked for (empty if it is)."""

    mode: Literal["offline", "online", "off"]
    reason: str = ""


@dataclass(frozen=True)
class Server:
    """Where an installed wandb would send runs; `problem` says why it cannot (empty if it can)."""

    address: str
    problem: str = ""


def decide(settings: TrackingSpec) -> Decision:
    """The mode for this machine: what was asked, lowered where wandb is absent, refuses or cannot reach its server.

    A `WANDB_MODE` of `offline` or `disabled` in the environment is obeyed too.
    """
    if settings.kind == "off":
        return Decision("off", "tracking is off")
    if not is_installed():
        return Decision("off", "wandb is not installed; install it, or set tracking=off to silence this")
    environment = os.environ.get("WANDB_MODE", "")
    if environment in ("disabled", "dryrun-disabled"):
        return Decision("off", "WANDB_MODE=disabled")
    if settings.mode == "offline":
        return Decision("offline")
    if environment in ("offline", "dryrun"):
        return Decision("offline", f"WANDB_MODE={environment}")
    server = find_server()
    return Decision("offline", server.problem) if server.problem else Decision("online")


def is_installed() -> bool:
    """Whether wandb can be imported; it is not."""
    return importlib.util.find_spec("wandb") is not None


def find_server() -> Server:
    """Asks wandb, in another process, for its server and key, then tries the server's port for two seconds.

    A server named by `WANDB_BASE_URL` is tried first, which costs nothing where it is dead.
    """
    named = os.environ.get("WANDB_BASE_URL", "")
    if named and (problem := connection_problem(named)):
        return Server(named, problem)
    try:
        found = ask_client()
    except (OSError, ValueError) as error:
        return Server("", f"wandb does not answer ({error})")
    if not found.has_key:
        return Server(found.address, f"no API key for {found.address}: run `wandb login` or set WANDB_API_KEY")
    return Server(found.address, "" if found.address == named else connection_problem(found.address))


@dataclass(frozen=True)
class Client:
    """What an installed wandb is set up for: its server, and whether it has a key for it."""

    address: str
    has_key: bool


def ask_client() -> Client:
    """Asks wandb in another process, which opens no connection.

    Raises:
        OSError: there is no answer in time.
        ValueError: the answer makes no sense.
    """
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "studies.tracking.client", "server"],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env=client_environment("offline"),
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"not within {PROBE_SECONDS:g} s") from None
    try:
        found = json.loads(answer.stdout.splitlines()[-1])
        return Client(str(found["address"]), bool(found["has_key"]))
    except (ValueError, IndexError, KeyError, TypeError) as error:
        last = answer.stderr.strip().splitlines()[-1:] or [type(error).__name__]
        raise ValueError(last[0]) from None


def connection_problem(address: str) -> str:
    """Why the server at `address` (or the proxy in front of it) cannot be reached; empty if it can."""
    target = urllib.parse.urlsplit(address)
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and target.hostname and not urllib.request.proxy_bypass(target.hostname):
        target = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = target.port or (443 if target.scheme == "https" else 80)
        socket.create_connection((target.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        return f"{address} cannot be reached ({error})"
    return ""


def client_environment(mode: str) -> Mapping[str, str]:
    """The environment of a client process: the mode is exported, and nothing overrides what a run is called."""
    overriding = {f"WANDB_{name}" for name in _OVERRIDING}
    kept = {name: value for name, value in os.environ.items() if name not in overriding}
    return kept | {"WANDB_MODE": mode, "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}
