"""Reading without the cycle collector, which is on again afterwards."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from studies.cli import app
from studies.errors import NotInStoreError
from studies.store import Store
from studies.uncollected import uncollected


def test_the_collector_is_as_it_was_also_after_an_error() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), uncollected():
        divmod(1, 0)
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("verb", ["status", "report", "export"])
def test_verbs_that_read_every_record_do_without(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(self: Store, study: str) -> Any:
        seen.append(gc.isenabled())
        raise NotInStoreError(f"no {study}")

    monkeypatch.setattr(Store, "plan", noted)
    monkeypatch.setattr(Store, "num_cells_about", lambda *_: 0)
    CliRunner().invoke(app, [verb, "small", "--store", str(tmp_path)])
    assert seen == [False]
    assert gc.isenabled()
