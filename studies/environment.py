"""Where, when and with what a cell is trained: machine, libraries, and which code."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform

import numpy as np
import timm
import torch

from .records import Environment
from .sources import code_version


def environment(device: str, lanes: int | None = None) -> Environment:
    """The environment of a cell trained on `device` (`cpu` or `cuda:<index>`), by a program of so many `lanes`."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu_name()
    return Environment(
        host=platform.node(),
        device=f"{device} ({name})",
        python=platform.python_version(),
        torch=str(torch.__version__),
        timm=timm.__version__,
        lightning=importlib.metadata.version("pytorch-lightning"),
        numpy=np.__version__,
        code_version=code_version(),
        threads=torch.get_num_threads(),
        lanes=lanes,
    )


def now() -> str:
    """The present moment, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123  # not a file of ours
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
