from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.schedule import learning_rate_factor


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, int]:
    total_steps = draw(st.integers(1, 5000))
    warmup_steps = draw(st.integers(0, total_steps))
    cooldown_steps = draw(st.integers(0, total_steps - warmup_steps))
    return {"total_steps": total_steps, "warmup_steps": warmup_steps, "cooldown_steps": cooldown_steps}


@given(schedules(), st.data())
def test_rises_then_stays_then_falls(schedule: dict[str, int], data: st.DataObject) -> None:
    step = data.draw(st.integers(0, schedule["total_steps"] - 1))
    factor, following = (learning_rate_factor(s, **schedule) for s in (step, step + 1))
    assert 0 < factor <= 1
    cooldown_start = schedule["total_steps"] - schedule["cooldown_steps"]
    if step + 1 < schedule["warmup_steps"]:
        assert following > factor
    elif schedule["warmup_steps"] <= step < cooldown_start:
        assert factor == 1
    elif step >= cooldown_start:
        assert following < factor


@given(schedules())
def test_ends(schedule: dict[str, int]) -> None:
    end = learning_rate_factor(schedule["total_steps"], **schedule)
    assert end == (0 if schedule["cooldown_steps"] else 1)


@given(schedules().filter(lambda schedule: schedule["cooldown_steps"] > 0), st.integers(1, 50))
def test_a_cooldown_does_not_depend_on_how_long_the_constant_part_was(schedule: dict[str, int], longer: int) -> None:
    extended = schedule | {"total_steps": schedule["total_steps"] + longer}
    for left in range(schedule["cooldown_steps"]):
        shorter_run = learning_rate_factor(schedule["total_steps"] - left, **schedule)
        assert shorter_run == learning_rate_factor(extended["total_steps"] - left, **extended)


def test_known_values() -> None:
    factors = [learning_rate_factor(n, total_steps=20, warmup_steps=4, cooldown_steps=4) for n in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1]
    assert factors[4:17] == [1] * 13
    assert factors[17:] == pytest.approx([0.5, 1 - sqrt(0.5), 1 - sqrt(0.75), 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10, 6, 5), "do not fit into total_steps=10"),
        ((0, 10, -1, 5), "warmup_steps=-1"),
        ((11, 10, 1, 1), "step=11"),
        ((-1, 10, 1, 1), "step=-1"),
    ],
)
def test_impossible_schedules_are_refused(arguments: tuple[int, int, int, int], message: str) -> None:
    step, total_steps, warmup_steps, cooldown_steps = arguments
    with pytest.raises(ValueError, match=message):
        learning_rate_factor(step, total_steps=total_steps, warmup_steps=warmup_steps, cooldown_steps=cooldown_steps)
