"""What fits where: asked of the machine before anything is copied, never found out by failing."""

import os
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")

DATA_SHARE = 0.5  # of free memory that a run's images may take; the rest is for network, optimiser and activations
_VALUES_PER_CPU_BATCH = 1 << 19  # input values of an evaluation batch whose activations stay in a core's cache
_CPU_BATCHES = (32, 256)  # smallest and largest
_CUDA_BATCHES = (32, 8192)
_ACTIVATIONS_PER_VALUE = 32  # bound on the activations alive at once per input value, float32
_CUDA_SHARE = 1 / 16  # of the device's memory, for the activations of an evaluation batch


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether images of `num_bytes` may lie on the device beside everything else a run needs there.

    On a CPU one run per core is expected, so each may take its share of what is available.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return num_bytes <= DATA_SHARE * free
    return num_bytes <= DATA_SHARE * available_memory() / len(os.sched_getaffinity(0))


def available_memory() -> int:
    """Bytes of main memory that can be had without swapping, within the limit of a container."""
    try:
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min(available, _left_in_container(available))


def _left_in_container(otherwise: int) -> int:
    """What the control group (version 2) of this machine or container leaves; files cached in memory can be dropped."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())  # "max" where there is none
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stat["inactive_file"]))
    except (OSError, KeyError, ValueError):
        return otherwise


def evaluation_batch_size(device: torch.device, values_per_image: int) -> int:
    """Images per evaluation batch, a power of two: a function of the device and the image, so that results repeat.

    Args:
        device: Where the network is. On CUDA as many as a sixteenth of its memory holds, activations included. On a
            CPU small batches are faster, since activations then stay in the core's cache.
        values_per_image: C * H * W.
    """
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        wanted, (least, most) = total * _CUDA_SHARE / (4 * _ACTIVATIONS_PER_VALUE * values_per_image), _CUDA_BATCHES
    else:
        wanted, (least, most) = _VALUES_PER_CPU_BATCH / values_per_image, _CPU_BATCHES
    return min(most, max(least, 1 << max(0, int(wanted).bit_length() - 1)))
