"""Learning rate over a run: linear warm-up, constant, 1 - sqrt cooldown (Hägele et al. 2405.18392, section 3)."""

from __future__ import annotations

from math import sqrt


def learning_rate_factor(step: int, *, total_steps: int, warmup_steps: int, cooldown_steps: int) -> float:
    """Factor on the peak learning rate for one optimiser step.

    With ``N`` total, ``N_w`` warm-up and ``N_c`` cooldown steps and ``n`` counted from 0: ``(n + 1) / N_w`` while
    ``n < N_w``; ``1 - sqrt((n - (N - N_c)) / N_c)`` from ``n = N - N_c`` on; 1 between. The first step trains
    (its factor is positive) and the last one does too: the factor reaches 0 at ``n = N``, one step after the end.

    Args:
        step: number of optimiser steps already made, ``0 <= step <= total_steps``.
        total_steps: length of the run.
        warmup_steps: length of the warm-up; 0 for none.
        cooldown_steps: length of the cooldown; 0 for none.

    Returns:
        A factor in [0, 1].

    Raises:
        ValueError: a length is negative, warm-up and cooldown overlap, or the step is not in the run.
    """
    if warmup_steps < 0 or cooldown_steps < 0:
        raise ValueError(f"warmup_steps={warmup_steps}, cooldown_steps={cooldown_steps}: expected 0 or more")
    if warmup_steps + cooldown_steps > total_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} and cooldown_steps={cooldown_steps} do not fit into "
            f"total_steps={total_steps}: shorten them or train longer"
        )
    if not 0 <= step <= total_steps:
        raise ValueError(f"step={step}: expected 0 to total_steps={total_steps}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    cooled_steps = step - (total_steps - cooldown_steps)
    if cooldown_steps and cooled_steps > 0:
        return 1 - sqrt(cooled_steps / cooldown_steps)
    return 1.0
