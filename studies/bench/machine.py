"""What the hardware can do, measured: the fastest matrix product and the fastest copy."""

from __future__ import annotations

import datetime
import os
import platform
from typing import Any

import torch
from torch import Tensor

from studies.environment import environment

from .loops import Stopwatch

MATMUL_SIZES = {"cpu": (256, 512, 1024, 2048), "cuda": (4096, 8192, 16384)}
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def describe_machine(device: str) -> dict[str, Any]:
    """Processor, cores, libraries and date; nothing that names a user."""
    found = environment(device)
    return {
        "device": found.device,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(terse=True),
        "python": found.python,
        "torch": found.torch,
        "timm": found.timm,
        "lightning": found.lightning,
        "code_version": found.code_version,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def matmul_peak(device: str, precision: str, seconds: float, sizes: tuple[int, ...] | None = None) -> dict[str, float]:
    """FLOP/s of square matrix products: size -> the best of several tries.

    Args:
        seconds: spent on each size, at least one product after one of warm-up.
    """
    rates: dict[str, float] = {}
    for size in sizes or MATMUL_SIZES[torch.device(device).type]:
        left = torch.randn(size, size, device=device).to(DTYPES[precision])
        right = torch.randn(size, size, device=device).to(DTYPES[precision])
        result = torch.empty_like(left)
        best = _fastest(lambda a=left, b=right, c=result: torch.mm(a, b, out=c), device, seconds)
        rates[str(size)] = 2 * size**3 / best
    return rates


def copy_peak(device: str, seconds: float, num_bytes: int | None = None) -> float:
    """Bytes read and written per second by the best copy of a buffer much larger than the caches.

    After the copy kernel of STREAM (McCalpin 1995): each element is one read and one write.
    """
    count = (num_bytes or COPY_BYTES[torch.device(device).type]) // 4
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * count / _fastest(lambda: target.copy_(source), device, seconds)


def _fastest(work: Any, device: str, seconds: float) -> float:  # noqa: ANN401  # any call without arguments
    """Least seconds of one call, over calls in groups long enough for the clock."""
    watch = Stopwatch(torch.device(device))

    def timed(calls: int) -> float:
        watch.begin()
        for _ in range(calls):
            work()
        watch.end()
        return (watch.stop - watch.start) / calls

    timed(1)
    once = timed(1)
    group = max(1, int(0.01 / max(once, 1e-9)))
    groups = max(3, int(seconds / max(group * once, 1e-9)))
    return min(timed(group) for _ in range(min(groups, 50)))


def total_bytes(tensor: Tensor) -> int:
    """Bytes an operation touches when it walks over a tensor: elements repeated by expansion count once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return (elements if tensor.numel() else 0) * tensor.element_size()
