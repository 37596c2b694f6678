"""What a worker process inherits from its environment: settings that libraries read once, as they load."""

from __future__ import annotations

import os

THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""One thread per numerical library: measured, a process per core trains more images per second than threads do."""
ALLOCATOR = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=17179869184"
"""How workers hold memory: in huge pages, and kept for the next step instead of handed back to the system.

A step frees what it allocated, and fresh pages cost more than many a kernel: one core took 1.06 times (Mixer) to 1.6
times (LSTM) as many steps. Other C libraries than glibc ignore it; a user's own GLIBC_TUNABLES come after and win.
"""


def worker_environment() -> dict[str, str]:
    """The variables that differ from those of the launcher."""
    allocator = ":".join(filter(None, (ALLOCATOR, os.environ.get("GLIBC_TUNABLES"))))
    return THREADS | {"GLIBC_TUNABLES": allocator}
