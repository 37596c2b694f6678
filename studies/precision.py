"""Whether the machine can do what a precision asks, tried where a crash costs nothing."""

from __future__ import annotations

import subprocess
import sys

from .errors import ConfigError

_TRIAL = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); assert float((a @ a)[0, 0]) == 64"


def check_precision(precision: str, device: str) -> None:
    """Refuses bf16 on a CPU whose bf16 matrix product kills the process (AMX advertised without its tile information).

    Raises:
        ConfigError: a child process that tried one such product did not survive it.
    """
    if precision != "bf16" or device.startswith("cuda"):
        return
    if problem := bf16_problem():
        raise ConfigError(
            f"recipe.precision: bf16 was asked for, but a bf16 matrix product fails on this CPU ({problem}); "
            "use fp32, or set ONEDNN_MAX_CPU_ISA=AVX512_CORE_FP16 before starting"
        )


def bf16_problem() -> str:
    """How a child process fails that tries one bf16 matrix product on the CPU; empty if it survives."""
    outcome = subprocess.run([sys.executable, "-c", _TRIAL], capture_output=True, text=True, check=False)
    if not outcome.returncode:
        return ""
    return (outcome.stderr.strip().splitlines()[-1:] or [f"it ended with signal {-outcome.returncode}"])[0]
