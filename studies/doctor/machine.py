"""The machine: processor cores, memory, instruction sets and memory pages, as the system tells them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from studies.counts import counted
from studies.precision import bf16_problem

from .finding import Finding, fine, first_line, warning

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
MEMORY = Path("/proc/meminfo")
CPU_INFO = Path("/proc/cpuinfo")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LEAST_BYTES_PER_WORKER = 2**29
"""A worker has imported torch, timm and Lightning, and holds its images besides."""
FIRST_GLIBC_WITH_HUGE_PAGES = (2, 35)
"""The tunable `glibc.malloc.hugetlb` came with it."""


def cores(quota: Path = CPU_QUOTA) -> Iterator[Finding]:
    """Cores this process may use, and whether a container grants as much time as they have."""
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = counted(usable, "usable core")
    if usable < there:
        found += f" of {there}"
    found += f", load average {os.getloadavg()[0]:.1f}"
    granted = _granted(quota)
    if granted is not None and granted < usable:
        found += f"; the container grants the time of {granted:g}"
        yield warning("machine: cores", found, f"set engine.workers={max(1, int(granted))}")
    elif os.getloadavg()[0] > usable:
        yield warning("machine: cores", found, "others compute here: trainings take longer, and times are no measure")
    else:
        yield fine("machine: cores", found)


def memory(told: Path = MEMORY, limit: Path = MEMORY_LIMIT) -> Iterator[Finding]:
    """Memory that is free, for one worker per core."""
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in _fields(told) if rest.split()}
    total, free = sizes["MemTotal"], sizes["MemAvailable"]
    granted = _number(limit)
    if granted is not None and granted < total:
        total, free = granted, min(free, granted)
    workers = len(os.sched_getaffinity(0))
    found = f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
    if free < LEAST_BYTES_PER_WORKER * workers:
        most = max(1, free // LEAST_BYTES_PER_WORKER)
        told_of = f"{found}: less than {LEAST_BYTES_PER_WORKER / 1e9:.1f} GB for each of {counted(workers, 'worker')}"
        yield warning("machine: memory", told_of, f"set engine.workers={most}, or the system may kill workers")
    else:
        yield fine("machine: memory", found)


def instruction_sets(told: Path = CPU_INFO) -> Iterator[Finding]:
    """Vector and matrix instructions, and whether bf16 products survive where the processor advertises them."""
    check = "machine: instruction sets"
    flags = next((set(rest.split()) for name, _, rest in _fields(told) if name in ("flags", "Features")), set())
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve") if name in flags]
    found = f"{platform.machine()}: {', '.join(known) or 'none of the usual vector instructions'}"
    if platform.machine() == "x86_64" and "avx2" not in flags:
        yield warning(check, found, "torch is slow without AVX2; train on another machine if there is one")
    else:
        yield fine(check, found)


def bf16() -> Iterator[Finding]:
    """Whether a bf16 matrix product survives on this CPU, tried in another process."""
    check = "machine: bf16 on the CPU"
    if not (problem := bf16_problem()):
        yield fine(check, "a bf16 matrix product works")
        return
    if "signal" in problem:
        advice = "leave recipe.precision at fp32, or set ONEDNN_MAX_CPU_ISA=AVX512_CORE_FP16 before starting"
        yield warning(check, f"a bf16 matrix product kills its process ({problem}); fp32, the default, works", advice)
    else:
        yield warning(check, f"could not be tried ({first_line(problem)})", "mend torch first")


def huge_pages(enabled: Path = HUGE_PAGES, library: tuple[str, str] | None = None) -> Iterator[Finding]:
    """Whether workers can hold their memory in huge pages, which on a CPU is worth up to half of the speed."""
    check = "machine: huge pages"
    name, version = library or platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    chosen = enabled.read_text().partition("[")[2].partition("]")[0] if enabled.exists() else "never"
    slower = "workers train more slowly (docs/speed.md); results are the same"
    if name != "glibc" or numbers < FIRST_GLIBC_WITH_HUGE_PAGES:
        yield warning(check, f"the C library is {name or 'not glibc'} {version}: {slower}", "use glibc 2.35 or newer")
    elif chosen == "never":
        yield warning(check, f"the kernel gives none: {slower}", f"as root: echo madvise > {enabled}")
    else:
        yield fine(check, f"{chosen}, {name} {version}")


def _granted(quota: Path) -> float | None:
    """Cores' worth of time that a container may use; None without a limit."""
    parts = quota.read_text().split() if quota.is_file() else []
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        return None
    return int(parts[0]) / int(parts[1])


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _fields(path: Path) -> Iterator[tuple[str, str, str]]:
    """`name: rest` of every line."""
    for line in path.read_text().splitlines():
        name, colon, rest = line.partition(":")
        yield name.strip(), colon, rest
