"""A second process answers what this one would, and its loss is no loss."""

from __future__ import annotations

import importlib
import operator
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import wait_until

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


def test_several_things_are_answered_in_the_order_they_were_asked_in(tmp_path: Path) -> None:
    """Each answer is whole, whichever is called for first, and as often as one likes."""
    with company(True) as second:
        assert second is not None
        places = [second.asked(_next_place, tmp_path) for _ in range(5)]
        large = second.asked(bytes.upper, b"a" * (1 << 22))
        assert large() == b"A" * (1 << 22)
        assert [place() for place in reversed(places)] == [4, 3, 2, 1, 0]
        assert [place() for place in places] == [0, 1, 2, 3, 4]


def _next_place(folder: Path) -> int:
    count = len(list(folder.iterdir()))
    (folder / str(count)).touch()
    return count


def test_this_process_goes_on_while_the_other_computes(tmp_path: Path) -> None:
    with company(True) as second:
        assert second is not None
        awaited = second.asked(_wait_for, tmp_path / "go_on")
        after = second.asked(bytes.upper, b"a" * (1 << 22))  # more than a pipe holds
        assert not awaited.is_answered
        (tmp_path / "go_on").touch()
        assert after() == b"A" * (1 << 22)
        assert awaited.is_answered


def _wait_for(path: Path) -> None:
    wait_until(path.exists)


def test_its_linear_algebra_takes_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless somebody has said otherwise; and what this process begins later takes what it likes."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with company(True) as second:
        assert second is not None
        assert second.asked(os.getenv, "OPENBLAS_NUM_THREADS")() == "1"
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    with company(True) as second:
        assert second is not None
        assert second.asked(os.getenv, "OPENBLAS_NUM_THREADS")() == "3"
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


def test_no_process_is_left_behind() -> None:
    with company(True) as second:
        assert second is not None
        process = second.asked(os.getpid)()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_nobody_waits_for_what_is_not_wanted_any_more() -> None:
    with company(True) as second:
        assert second is not None
        second.asked(time.sleep, 600)
    assert second._process.returncode == -signal.SIGKILL


def test_it_ends_with_its_input() -> None:
    second = Company()
    second.asked(os.getpid)()
    assert second._process.stdin is not None
    second._process.stdin.close()
    assert second._process.wait(600) == 0
    second._process.stdin = None
    second.end()


ASKS_AND_WAITS = """
import os, time
from studies.company import Company
second = Company()
process = second.asked(os.getpid)()
awaited = second.asked(time.sleep, 3600)
print(process, flush=True)
awaited()
"""


def test_it_ends_in_the_middle_of_an_answer_when_who_asked_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ASKS_AND_WAITS], stdout=subprocess.PIPE) as asking:
        assert asking.stdout is not None
        process = int(asking.stdout.readline())
        os.kill(process, 0)
        asking.kill()
    wait_until(lambda: not _runs(process))


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_where_none_can_begin_one_computes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError("no process left")

    monkeypatch.setattr(subprocess, "Popen", refused)
    with company(True) as second:
        assert second is None
    with company(False) as second:
        assert second is None


@pytest.mark.parametrize("printed", ["hello", "Fast\n", "cos\nnothing\n.", "\x80\x05N.", "I1\n."])
def test_a_process_that_says_something_else_is_as_good_as_lost(
    printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a `sitecustomize` prints: before it has been asked anything."""
    (tmp_path / "sitecustomize.py").write_text(f"import os\nos.write(1, {printed.encode('latin-1')!r})\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with company(True) as second:
        assert second is not None
        for _ in range(2):
            assert second.asked(os.getpid)() == os.getpid()


def test_what_cannot_be_sent_is_computed_here() -> None:
    with company(True) as second:
        assert second is not None
        assert second.asked(lambda: 7)() == 7
        assert second.asked(os.getpid)() == os.getpid(), "half a question was followed by another"
    with company(True) as second:
        assert second is not None
        assert callable(second.asked(operator.attrgetter, "a")())
        assert second.asked(threading.Lock)() is not None, "an answer that cannot be sent"


def test_nothing_is_loaded_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("open('was_run', 'w')")
    monkeypatch.chdir(tmp_path)
    with company(True) as second:
        assert second is not None
        assert second.asked(os.getpid)() != os.getpid()
    assert not (tmp_path / "was_run").exists()


def test_modules_are_found_where_this_process_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a notebook says it, also in a way that Python passes over."""
    (tmp_path / "of_a_notebook.py").write_text("import os\n\ndef who():\n    return os.getpid()\n")
    monkeypatch.setattr(sys, "path", [tmp_path / "no_text", str(tmp_path), *sys.path])
    module = importlib.import_module("of_a_notebook")
    monkeypatch.delitem(sys.modules, "of_a_notebook")
    monkeypatch.setitem(sys.modules, "of_a_notebook", module)
    with company(True) as second:
        assert second is not None
        assert second.asked(module.who)() != os.getpid()


def test_large_questions_and_answers_pass_each_other() -> None:
    """Larger than a pipe, both ways, and a second time."""
    with company(True) as second:
        assert second is not None
        for _ in range(2):
            assert second.asked(bytes.upper, b"a" * (1 << 22))() == b"A" * (1 << 22)


def test_a_process_killed_while_it_answers_costs_nothing() -> None:
    with company(True) as second:
        assert second is not None
        process = second.asked(os.getpid)()
        os.kill(process, signal.SIGSTOP)
        awaited, after = second.asked(bytes, 1 << 22), second.asked(os.getpid)
        os.kill(process, signal.SIGKILL)
        assert awaited() == bytes(1 << 22)
        assert after() == os.getpid()


def test_half_an_answer_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = pickle.dumps((True, b"a" * 1000))[:500]
    (tmp_path / "sitecustomize.py").write_text(f"import os\nos.write(1, {half!r})\nos._exit(0)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with company(True) as second:
        assert second is not None
        assert second.asked(bytes.upper, b"a" * 1000)() == b"A" * 1000


def test_a_process_that_is_in_the_middle_of_what_nobody_awaits_is_not_left_behind(tmp_path: Path) -> None:
    with company(True) as second:
        assert second is not None
        process = second.asked(os.getpid)()
        second.asked(_wait_for, tmp_path / "never")
        second.asked(bytes, 1 << 22)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_report_made_by_two_is_the_report_made_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = made_plan("tiny", arms=2, sizes=4, replicates=2)
    store = make_store(tmp_path, plan)
    (store.cell_folder(plan.cells[-1].id) / "record.json").write_text("{")  # whoever reads it says so
    by_one = answering.report_study(plan, store)
    alone = _files(by_one.page.parent)
    asked: list[str] = []

    def noted(self: Company, function: object, *arguments: object, **named: object) -> object:
        asked.append(function.__name__)  # type: ignore[attr-defined]
        return original(self, function, *arguments, **named)  # type: ignore[arg-type]

    original = Company.asked
    monkeypatch.setattr(Company, "asked", noted)
    monkeypatch.setattr("studies.company.WORTH_COMPANY", 1)
    assert answering.report_study(plan, store) == by_one
    assert _files(by_one.page.parent) == alone
    assert asked[:7] == ["part_of", "analyse", *["cost_view"] * 4, "drawn"]
    assert set(asked[7:]) <= {"drawn"}


def test_a_report_whose_second_process_is_lost_is_the_report_made_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = made_plan("tiny", arms=2, sizes=4, replicates=2)
    store = make_store(tmp_path, plan)
    alone = _files(answering.report_study(plan, store).page.parent)
    with company(True) as second:
        assert second is not None
        os.kill(second.asked(os.getpid)(), signal.SIGKILL)
        assert _files(answering.report_study(plan, store, second=second).page.parent) == alone


def test_answers_travel_between_processes(tmp_path: Path) -> None:
    plan = made_plan("tiny", arms=2, sizes=4, replicates=2)
    answers = analyse(records_table(records_frame(make_store(tmp_path, plan).records(plan))), chance=0.5)
    assert str(pickle.loads(pickle.dumps(answers)).as_dict()) == str(answers.as_dict())


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
