"""Errors a person can mend, and the exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the shell sees."""

    OK = 0
    UNEXPECTED = 1  # a bug: a traceback is printed
    USAGE = 2  # a wrong command, configuration, plan or data set: nothing was trained
    INCOMPLETE = 3  # the study ended with cells failed, invalid or not finished, or something is broken here
    VERIFICATION = 4  # a bundle is not what it claims to be
    INTERRUPTED = 130  # Ctrl-C; the same command continues


class StudyError(Exception):
    """A mistake in what was asked, or a fault of the machine, told in one message."""

    exit_code: ClassVar[ExitCode] = ExitCode.INCOMPLETE


class ConfigError(StudyError):
    """A study file or override that does not say what it must; names field, value and expectation."""

    exit_code = ExitCode.USAGE


class PlanError(ConfigError):
    """A well-formed study that cannot be run or would compare unfairly."""


class StoreError(StudyError):
    """The results folder cannot be read or written as it must."""


class NotInStoreError(StoreError):
    """A study or cell was named that the results folder does not have."""

    exit_code = ExitCode.USAGE
