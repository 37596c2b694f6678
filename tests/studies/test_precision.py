"""A precision that kills a process is found out in a child."""

from __future__ import annotations

import subprocess

import pytest

from studies import precision
from studies.errors import ConfigError
from studies.precision import check_precision


@pytest.mark.parametrize(
    ("trial", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", r"it ended with signal 4"),
        ("raise SystemExit('no bf16 here')", "no bf16 here"),
        ("assert 1 == 2, 'wrong product'", "AssertionError: wrong product"),
    ],
)
def test_a_cpu_that_fails_at_bf16_is_refused_with_advice(
    monkeypatch: pytest.MonkeyPatch, trial: str, says: str
) -> None:
    monkeypatch.setattr(precision, "_TRIAL", trial)
    with pytest.raises(ConfigError, match=rf"recipe.precision: bf16 .*{says}.* use fp32, or set ONEDNN_MAX_CPU_ISA"):
        check_precision("bf16", "cpu")


def test_a_cpu_that_survives_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_TRIAL", "pass")
    check_precision("bf16", "cpu")


@pytest.mark.parametrize(("asked", "device"), [("fp32", "cpu"), ("fp32", "cuda:0"), ("bf16", "cuda:0")])
def test_nothing_is_tried_where_nothing_can_go_wrong(monkeypatch: pytest.MonkeyPatch, asked: str, device: str) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr(subprocess, "run", refuse)
    check_precision(asked, device)
