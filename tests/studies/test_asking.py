"""From a study to its plan: the data are asked what they are, and no image is looked at."""

from __future__ import annotations

import pytest
from planned import COLOURED, make_arms, make_spec

from datamodules import DialData, parse_data
from studies import asking


def test_planning_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("planning loaded images")

    monkeypatch.setattr(DialData, "load", refuse)
    monkeypatch.setattr(type(parse_data(COLOURED)), "load", refuse)
    spec = make_spec()
    monkeypatch.setattr(asking, "survey_arms", lambda spec, data, designs: make_arms(spec))
    assert len(asking.plan(spec).cells) == 12
    assert len(asking.plan(make_spec(data=parse_data(COLOURED))).cells) == 12
