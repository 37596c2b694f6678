"""A second process answers what this one would, and its loss is no loss."""

from __future__ import annotations

import operator
import os
import pickle
import signal
import subprocess
from pathlib import Path

import pytest

from studies import answering
from studies.analysis.answers import analyse
from studies.analysis.of_records import records_table
from studies.bench.made_store import made_plan, make_store
from studies.company import Company, company
from studies.records import records_frame


def test_another_process_answers_one_thing_after_the_other() -> None:
    with company(True) as second:
        assert second is not None
        first = second.asked(os.getpid)()
        assert first != os.getpid()
        assert second.asked(os.getpid)() == first
        assert second.asked(divmod, 7, 2)() == (3, 1)
        assert second.asked(int, "11", base=2)() == 3


def test_what_is_printed_there_is_no_answer() -> None:
    with company(True) as second:
        assert second is not None
        assert second.asked(print, "beside")() is None
        assert second.asked(os.getpid)() != os.getpid()


def test_an_error_is_raised_here() -> None:
    with company(True) as second:
        assert second is not None
        with pytest.raises(ZeroDivisionError):
            second.asked(operator.floordiv, 1, 0)()
        assert second.asked(operator.floordiv, 4, 2)() == 2


def test_what_a_lost_process_was_asked_is_computed_here() -> None:
    with company(True) as second:
        assert second is not None
        os.kill(second.asked(os.getpid)(), signal.SIGKILL)
        assert second.asked(os.getpid)() == os.getpid()
        assert second.asked(bytes, 1 << 20)() == bytes(1 << 20)


def test_it_is_asked_one_thing_at_a_time() -> None:
    with company(True) as second:
        assert second is not None
        second.asked(os.getpid)
        with pytest.raises(RuntimeError, match="before its last answer"):
            second.asked(os.getpid)


def test_no_process_is_left_behind() -> None:
    with company(True) as second:
        assert second is not None
        process = second.asked(os.getpid)()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_it_ends_with_its_input() -> None:
    second = Company()
    second.asked(os.getpid)()
    assert second._process.stdin is not None
    second._process.stdin.close()
    assert second._process.wait(120) == 0
    second._process.stdin = None
    second.end()


def test_where_none_can_begin_one_computes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError("no process left")

    monkeypatch.setattr(subprocess, "Popen", refused)
    with company(True) as second:
        assert second is None
    with company(False) as second:
        assert second is None


def test_a_report_made_by_two_is_the_report_made_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = made_plan("tiny", arms=2, sizes=4, replicates=2)
    store = make_store(tmp_path, plan)
    alone = _files(answering.report_study(plan, store).page.parent)
    asked: list[str] = []

    def noted(self: Company, function: object, *arguments: object, **named: object) -> object:
        asked.append(function.__name__)  # type: ignore[attr-defined]
        return original(self, function, *arguments, **named)  # type: ignore[arg-type]

    original = Company.asked
    monkeypatch.setattr(Company, "asked", noted)
    monkeypatch.setattr(answering, "WORTH_COMPANY", 1)
    assert _files(answering.report_study(plan, store).page.parent) == alone
    assert asked == ["analyse", "drawn"]


def test_answers_travel_between_processes(tmp_path: Path) -> None:
    plan = made_plan("tiny", arms=2, sizes=4, replicates=2)
    answers = analyse(records_table(records_frame(make_store(tmp_path, plan).records(plan))), chance=0.5)
    assert str(pickle.loads(pickle.dumps(answers)).as_dict()) == str(answers.as_dict())


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
