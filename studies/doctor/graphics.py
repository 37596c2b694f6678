"""Graphics processors: those the system shows against those torch can use, asked in another process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from studies.counts import counted

from .children import MARK, ask
from .finding import Finding, broken, fine, warning

DEVICES = Path("/dev")
HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")

_PROGRAM = f"""
import json, torch
count = torch.cuda.device_count()
reason = ""
try:
    if count:
        torch.cuda.init()
except Exception as error:
    reason = (str(error).strip().splitlines() or [""])[0]
built = torch.version.cuda or getattr(torch.version, "hip", None)
names = [torch.cuda.get_device_name(index) for index in range(count)] if not reason else []
told = dict(version=torch.__version__, built=built, count=count, names=names, reason=reason)
print({MARK!r} + json.dumps(told), flush=True)
"""


def shown(devices: Path = DEVICES) -> list[str]:
    """What the system shows: NVIDIA cards, AMD's or Windows' one entry for all of theirs."""
    cards = [path.name for path in devices.glob("nvidia[0-9]*") if path.name[6:].isdigit()]
    return sorted([*cards, *(path.name for name in ("kfd", "dxg") for path in devices.glob(name))])


def gpus(devices: Path = DEVICES) -> Iterator[Finding]:
    """Whether torch can use every GPU there is."""
    check = "machine: GPUs"
    there = shown(devices)
    if not there:
        yield fine(check, "none; cells train on the CPU")
        return
    answer = ask(_PROGRAM)
    system = f"the system shows {', '.join(there)}"
    if not answer.lines:
        yield broken(check, f"{system}; torch could not be asked ({answer.problem})", "mend torch first")
        return
    told = answer.lines[0]
    hidden = [f"{name}={os.environ[name]}" for name in HIDING if name in os.environ]
    cards = sum(name.startswith("nvidia") for name in there)
    if told["reason"]:
        yield broken(check, f"{system}; CUDA does not start ({told['reason']})", "update the driver, or see nvidia-smi")
    elif told["count"] >= max(1, cards):
        yield fine(check, f"{counted(told['count'], 'GPU')}: {', '.join(dict.fromkeys(told['names']))}")
    elif told["built"] is None:
        yield warning(
            check,
            f"{system}, but torch {told['version']} is built without CUDA: cells train on the CPU",
            "the ordinary torch: make install TORCH_BACKEND=auto, or pip install --force-reinstall torch torchvision",
        )
    elif hidden:
        yield warning(
            check, f"{system}, torch sees {told['count']} ({', '.join(hidden)})", "unset it to use all of them"
        )
    else:
        yield broken(
            check,
            f"{system}, but torch {told['version']} (CUDA {told['built']}) sees {told['count']}",
            "the driver is older than this CUDA, or not loaded: see nvidia-smi; update it, or install a torch that is "
            "built for it",
        )
