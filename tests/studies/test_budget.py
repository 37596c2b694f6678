"""FLOPs and steps: exact identities, for any study."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from studies.budget import (
    STEP_MULTIPLE,
    Budget,
    branch_plans,
    executed_steps,
    steps_for_epochs,
    steps_for_flops,
    train_flops,
    train_flops_exact,
)

EIGHTHS = (0.125, 0.25, 0.5, 1.0)
trunks = st.integers(1, 50_000).map(lambda multiple: multiple * STEP_MULTIPLE)
branch_sets = st.sets(st.sampled_from(EIGHTHS), min_size=1).map(lambda chosen: tuple(chosen | {1.0}))


@given(steps=trunks, fractions=branch_sets)
def test_every_branch_is_whole_and_a_fifth_of_it_is_cooldown(steps: int, fractions: tuple[float, ...]) -> None:
    plans = branch_plans(steps, fractions, 0.2)
    assert [plan.fraction for plan in plans] == sorted(fractions)
    for plan in plans:
        assert plan.steps == Fraction(plan.fraction) * steps
        assert 5 * plan.cooldown_steps == plan.steps
        assert plan.trunk_steps == plan.steps - plan.cooldown_steps > 0


@given(steps=trunks)
def test_four_branches_execute_exactly_1175_thousandths_of_the_budget(steps: int) -> None:
    assert 1000 * executed_steps(branch_plans(steps, EIGHTHS, 0.2)) == 1175 * steps


@given(steps=trunks, fractions=branch_sets, cooldown=st.sampled_from((0.1, 0.2, 0.4, 0.6)))
def test_executed_steps_count_shared_trunk_steps_once(
    steps: int, fractions: tuple[float, ...], cooldown: float
) -> None:
    plans = branch_plans(2 * steps, fractions, cooldown)  # twice, so that a tenth of an eighth is whole too
    trunk = max(plan.trunk_steps for plan in plans)
    assert executed_steps(plans) - trunk == sum(2 * steps * Fraction(f) * Fraction(str(cooldown)) for f in fractions)
    assert all(plan.trunk_steps <= trunk for plan in plans)
    assert max(plan.steps for plan in plans) == 2 * steps


def test_the_order_of_the_fractions_does_not_matter() -> None:
    assert branch_plans(80, (1.0, 0.125), 0.2) == branch_plans(80, (0.125, 1.0), 0.2)


def test_decimals_are_what_a_person_wrote() -> None:
    # 0.1 + 0.2 as binary floats would leave 29.999... steps of cooldown here.
    (only,) = branch_plans(100, (1.0,), 0.3)
    assert (only.trunk_steps, only.cooldown_steps) == (70, 30)


@pytest.mark.parametrize(
    ("steps", "fractions", "cooldown", "multiple"),
    [
        (44, EIGHTHS, 0.2, 40),
        (20, EIGHTHS, 0.2, 40),
        (80, (1.0,), 0.001, 1000),
        (0, (1.0,), 0.2, 40),
        (40, (0.0625, 1.0), 0.2, 80),
    ],
)
def test_a_branch_that_is_not_whole_is_refused(
    steps: int, fractions: tuple[float, ...], cooldown: float, multiple: int
) -> None:
    told = rf"branch .* of {steps} steps with a cooldown of {cooldown:g} .* multiple of {multiple} steps"
    with pytest.raises(ValueError, match=told):
        branch_plans(steps, fractions, cooldown)
    assert branch_plans(multiple, fractions, cooldown)


@given(
    forward=st.integers(1, 10**12),
    batch=st.integers(2, 4096),
    budget=st.floats(min_value=1, max_value=1e22),
)
def test_steps_for_flops_never_exceed_the_budget_and_spend_it(forward: int, batch: int, budget: float) -> None:
    steps = steps_for_flops(budget, forward, batch)
    assert steps % STEP_MULTIPLE == 0
    assert train_flops(forward, steps * batch) <= budget
    assert train_flops(forward, (steps + STEP_MULTIPLE) * batch) > budget


@given(forward=st.integers(1, 10**9), batch=st.integers(2, 4096), multiple=st.integers(1, 10**4))
def test_steps_for_flops_inverts_the_cost(forward: int, batch: int, multiple: int) -> None:
    steps = multiple * STEP_MULTIPLE
    cost = train_flops(forward, steps * batch)
    assert steps_for_flops(cost, forward, batch) == steps
    assert steps_for_flops(cost - 1, forward, batch) == steps - STEP_MULTIPLE


@given(epochs=st.integers(1, 4000).map(lambda n: n / 8), num_train=st.integers(1, 10**6), batch=st.integers(2, 1024))
def test_steps_for_epochs_are_the_fewest_that_see_every_image_so_often(
    epochs: float, num_train: int, batch: int
) -> None:
    steps = steps_for_epochs(epochs, num_train, batch)
    assert steps % STEP_MULTIPLE == 0
    assert steps * batch >= epochs * num_train
    assert (steps - STEP_MULTIPLE) * batch < epochs * num_train


@given(forward=st.integers(1, 10**12), share=st.floats(0, 1), examples=st.integers(0, 10**9))
def test_training_costs_three_forwards_less_the_first_input_gradient(forward: int, share: float, examples: int) -> None:
    first = math.floor(forward * share)
    assert train_flops(forward, examples) == 3 * forward * examples
    assert train_flops(forward, examples) - train_flops_exact(forward, first, examples) == first * examples


def test_known_budget() -> None:
    # ResNet-50 at 224 px: 4.0892 GMAC, 8.1784 GFLOP forward; an epoch of 1,281,167 images at 3 x forward is 31.4 PFLOP.
    assert train_flops(8_178_400_000, 1_281_167) == 31_433_688_578_400_000
    # 480 steps of 128 images at 1.288 MFLOP forward cost 237.4 GFLOP.
    assert train_flops(1_288_000, 480 * 128) == 237_404_160_000
    assert steps_for_flops(2.375e11, 1_288_000, 128) == 480


# --- what a study file may say -------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"steps": 80, "epochs": 3.0}, {"train_flops": 1e9, "steps": 80}])
def test_a_budget_has_exactly_one_length(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="exactly one of train_flops, steps and epochs; given: "):
        Budget.model_validate(given)


@pytest.mark.parametrize(("steps", "advice"), [(470, "440 or 480"), (20, "at least 40"), (41, "40 or 80")])
def test_steps_that_split_a_branch_are_refused_with_the_nearest_that_do_not(steps: int, advice: str) -> None:
    with pytest.raises(ValidationError, match=f"multiple of 40 .*: {advice}"):
        Budget(steps=steps)
    assert Budget(steps=480).steps == 480


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("branches", (0.125, 0.5), "must contain 1.0"),
        ("branches", (0.5, 1.0, 0.5), "names a fraction twice"),
        ("branches", (0.0, 1.0), "greater than 0"),
        ("branches", (1.0, 2.0), "less than or equal to 1"),
        ("warmup_fraction", 0.031, "less than or equal to 0.03"),
        ("cooldown_fraction", 0.0, "greater than 0"),
        ("cooldown_fraction", 1.0, "less than 1"),
        ("batch_size", 1, "greater than or equal to 2"),
        ("train_flops", 0.0, "greater than 0"),
        ("epochs", -1.0, "greater than 0"),
        ("steps", 0, "greater than 0"),
        ("stepz", 80, "Extra inputs"),
    ],
)
def test_a_budget_outside_the_protocol_is_refused(field: str, value: object, says: str) -> None:
    length = {} if field in ("train_flops", "epochs", "steps") else {"steps": 80}
    with pytest.raises(ValidationError, match=says) as caught:
        Budget.model_validate(length | {field: value})
    assert caught.value.errors()[0]["loc"][0] == field


def test_branches_are_kept_cheapest_first() -> None:
    assert Budget(steps=80, branches=(1.0, 0.25, 0.5)).branches == (0.25, 0.5, 1.0)
