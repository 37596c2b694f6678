"""Engine settings: a mistake is told by its field."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from studies.engine_spec import EngineSpec


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workers", 0),
        ("workers", 10**9),  # a list of as many would not fit into memory
        ("stall_seconds", 0),
        ("stall_seconds", 1e13),  # the watchdog cannot be wound up for so long
        ("stall_seconds", float("inf")),
        ("device", "tpu"),
        ("chunk_steps", 0),
        ("checkpoint_seconds", -1),
        ("kind", "cloud"),
        ("worker", 1),
    ],
)
def test_engine_settings_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        EngineSpec.model_validate({field: value})
    assert caught.value.errors()[0]["loc"] == (field,)
