"""The W&B mirror: client, mode, host, and whether there is a key; the key itself is never read here."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator

from .finding import Finding, fine, first_line, printable, warning

MODES = ("online", "offline", "dryrun", "disabled", "dryrun-disabled", "shared")
CHECK = "W&B: settings"


def mirror() -> Iterator[Finding]:
    """What a study with `tracking=wandb` would do here; a server is looked for only where the mode is online."""
    from studies.tracking.settings import ask_client, connection_problem, is_installed

    mode = os.environ.get("WANDB_MODE", "")
    if not is_installed():
        yield fine(CHECK, "wandb is not installed: studies run without a mirror", "pip install wandb, if you want one")
        return
    if mode and mode not in MODES:
        told = f"WANDB_MODE is {printable(mode)!r}, which wandb does not know"
        yield warning(CHECK, told, "set it to offline, online or disabled, or unset it")
    try:
        client = ask_client()
    except (OSError, ValueError) as error:
        told = f"wandb does not answer ({first_line(error)})"
        yield warning(CHECK, told, "install it again, or set tracking=off; training is not affected")
        return
    key = "a key is present" if client.has_key else "no key"
    host = printable(urllib.parse.urlsplit(client.address).hostname or client.address)
    found = f"mode {printable(mode) or 'as the study says (offline by default)'}, host {host}, {key}"
    if mode != "online":
        advice = "" if client.has_key else "needed only to sync or to run online: `wandb login`, or set WANDB_API_KEY"
        yield fine(CHECK, found, advice)
    elif not client.has_key:
        yield warning(CHECK, f"{found}: runs will be written offline", "`wandb login`, or set WANDB_API_KEY")
    elif connection_problem(client.address):
        told = f"{found}; {host} cannot be reached: runs will be written offline"
        yield warning(CHECK, told, "check network and proxy; `study sync STUDY` hands runs over later")
    else:
        yield fine(CHECK, f"{found}, reachable")
