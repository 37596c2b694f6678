"""The rules of a tuning on tables whose answer is known: winners, extensions, interpolation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from pydantic import ValidationError

from studies.tuning import (
    Trial,
    TuningReplicates,
    TuningSpec,
    at_edge,
    extension,
    geometric_mean,
    interpolate,
    winner,
)

V = 100
RULES = TuningSpec(learning_rates=(0.001, 0.003, 0.009), weight_decays=(0.02, 0.2), max_trials=10)


def table(errors: dict[float, float | tuple[float, ...]], *, worse: float = 0.05) -> list[Trial]:
    """A trial per rate and decay; the larger decay is worse."""
    trials = []
    for rate, given in errors.items():
        values = given if isinstance(given, tuple) else (given,)
        for index, decay in enumerate(RULES.weight_decays):
            shifted = tuple(value + index * worse for value in values)
            trials.append(Trial(learning_rate=rate, weight_decay=decay, validation_errors=shifted))
    return trials


# --- winner ----------------------------------------------------------------------------------------------------


def test_the_smallest_mean_log_error_wins_not_the_smallest_mean() -> None:
    even = Trial(learning_rate=0.001, weight_decay=0.02, validation_errors=(0.20, 0.20))  # mean .20, geometric .2
    uneven = Trial(learning_rate=0.003, weight_decay=0.02, validation_errors=(0.05, 0.40))  # mean .225, geometric .141
    assert winner([even, uneven], V) is uneven
    assert geometric_mean(uneven, V) == 0.1414


def test_no_error_counts_as_half_an_error() -> None:
    none = Trial(learning_rate=0.001, weight_decay=0.02, validation_errors=(0.0,))
    one = Trial(learning_rate=0.003, weight_decay=0.02, validation_errors=(1 / V,))
    assert none.mean_log_error(V) == pytest.approx(math.log(0.5 / (V + 1)))
    assert winner([one, none], V) is none


def test_of_equals_the_smaller_rate_then_the_smaller_decay_wins() -> None:
    pairs = list(itertools.product((0.009, 0.001, 0.003), (0.2, 0.02)))
    trials = [Trial(learning_rate=rate, weight_decay=decay, validation_errors=(0.1, 0.2)) for rate, decay in pairs]
    assert winner(trials, V).pair == (0.001, 0.02)
    swapped = Trial(learning_rate=0.0001, weight_decay=9.0, validation_errors=(0.2, 0.1))
    assert winner([*trials, swapped], V) is swapped, "the order of replicates is no difference"


def test_a_diverged_replicate_counts_as_chance() -> None:
    steady = Trial(learning_rate=0.001, weight_decay=0.02, validation_errors=(0.2, 0.2, 0.2))
    wild = Trial(learning_rate=0.003, weight_decay=0.02, validation_errors=(0.1, 0.2, 0.5), diverged=1)
    assert winner([wild, steady], V) is steady


@pytest.mark.parametrize("error", [math.nan, math.inf, -0.1, 1.1])
def test_what_is_no_error_rate_never_enters_a_table(error: float) -> None:
    with pytest.raises(ValidationError):
        Trial(learning_rate=0.001, weight_decay=0.02, validation_errors=(error,))


def test_trials_with_unequal_replicates_are_not_compared() -> None:
    """A trial with a failed cell would otherwise be judged on fewer replicates."""
    whole = Trial(learning_rate=0.001, weight_decay=0.02, validation_errors=(0.2, 0.2, 0.2))
    part = Trial(learning_rate=0.003, weight_decay=0.02, validation_errors=(0.1, 0.1))
    with pytest.raises(ValueError, match="same number of replicates"):
        winner([whole, part], V)
    with pytest.raises(ValueError, match="at least one"):
        winner([], V)


# --- extension -------------------------------------------------------------------------------------------------


def test_a_winner_inside_ends_the_tuning() -> None:
    trials = table({0.001: 0.3, 0.003: 0.1, 0.009: 0.2})
    assert extension(trials, RULES, V) == ()
    assert not at_edge(trials, V)


def test_a_winner_at_the_upper_edge_adds_one_rate_above_with_every_decay() -> None:
    assert extension(table({0.001: 0.3, 0.003: 0.2, 0.009: 0.1}), RULES, V) == ((0.027, 0.02), (0.027, 0.2))


def test_a_winner_at_the_lower_edge_adds_one_rate_below_with_every_decay() -> None:
    assert extension(table({0.001: 0.1, 0.003: 0.2, 0.009: 0.3}), RULES, V) == ((0.00033, 0.02), (0.00033, 0.2))


def test_the_decay_of_the_winner_does_not_matter() -> None:
    assert extension(table({0.001: 0.3, 0.003: 0.2, 0.009: 0.1}, worse=-0.05), RULES, V)[0][0] == 0.027


def test_the_next_round_starts_from_the_new_edge() -> None:
    trials = table({0.001: 0.4, 0.003: 0.3, 0.009: 0.2, 0.027: 0.1})
    assert extension(trials, RULES, V) == ((0.081, 0.02), (0.081, 0.2))
    assert extension(table({0.001: 0.4, 0.003: 0.3, 0.009: 0.1, 0.027: 0.2}), RULES, V) == ()


def test_the_trials_are_used_up_and_it_is_said() -> None:
    trials = table({0.001: 0.5, 0.003: 0.4, 0.009: 0.3, 0.027: 0.2, 0.081: 0.1})
    assert len(trials) == RULES.max_trials
    assert extension(trials, RULES, V) == ()
    assert at_edge(trials, V)
    uneven = RULES.model_copy(update={"max_trials": 11})  # pays for one more, not for both decays
    assert extension(trials, uneven, V) == ()


def test_a_tie_at_chance_counts_as_the_lower_edge() -> None:
    assert extension(table({0.001: 0.5, 0.003: 0.5, 0.009: 0.5}), RULES, V)[0][0] == 0.00033


@pytest.mark.parametrize("best", [1e-6, 0.002, 0.05, 10.0])
def test_every_arm_ends_inside_or_with_all_its_trials(best: float) -> None:
    """Whatever the best rate is, the trials never exceed the maximum, which is one number for all."""
    rules = TuningSpec(max_trials=14)
    pairs, tried = rules.grid, []
    while pairs:
        tried += [
            Trial(
                learning_rate=rate,
                weight_decay=decay,
                validation_errors=(min(0.5, 0.01 + abs(math.log(rate / best)) / 30),),
            )
            for rate, decay in pairs
        ]
        pairs = extension(tried, rules, V)
    assert len(tried) <= rules.max_trials
    assert at_edge(tried, V) == (len(tried) == rules.max_trials)
    assert len({trial.pair for trial in tried}) == len(tried)


# --- interpolation ---------------------------------------------------------------------------------------------


def test_interpolation_is_linear_in_log_value_over_log_size() -> None:
    tuned = {64: 0.001, 1024: 0.004, 16384: 0.001}
    assert interpolate(tuned, 256) == 0.002  # half way in ln N: the geometric mean
    assert interpolate(tuned, 4096) == 0.002
    assert interpolate(tuned, 128) == float(f"{0.001 * 4**0.25:.4g}")


def test_tuned_sizes_keep_their_values_and_outside_they_are_held() -> None:
    tuned = {1024: 0.0123456, 64: 0.003}
    assert [interpolate(tuned, size) for size in (10, 64, 1024, 10**6)] == [0.003, 0.003, 0.0123456, 0.0123456]


# --- what may be asked -----------------------------------------------------------------------------------------


def test_sizes_are_the_smallest_the_geometric_middle_and_the_largest() -> None:
    assert TuningSpec().sizes_of((16384, 64, 256, 1024, 4096)) == (64, 1024, 16384)
    assert TuningSpec().sizes_of((64, 256, 1024, 4096)) == (64, 256, 4096), "of two as near, the smaller"
    assert TuningSpec().sizes_of((64, 4096)) == (64, 4096)
    assert TuningSpec().sizes_of((64,)) == (64,)
    assert TuningSpec(sizes=(100, 500)).sizes_of((64, 4096)) == (100, 500)


def test_the_smallest_size_has_most_replicates() -> None:
    rules = TuningSpec(replicates=TuningReplicates(min=5, others=2))
    assert [rules.num_replicates(size, (64, 1024, 16384)) for size in (64, 1024, 16384)] == [5, 2, 2]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two rates": ({"learning_rates": (0.001, 0.003)}, "at least 3"),
    "falling": ({"learning_rates": (0.01, 0.003, 0.001)}, "must rise"),
    "a rate of zero": ({"learning_rates": (0.0, 0.001, 0.003)}, "greater than 0"),
    "too fine": ({"learning_rates": (0.001, 0.0015, 0.00225)}, "2 to 3 times"),
    "too coarse": ({"learning_rates": (0.001, 0.01, 0.1)}, "2 to 3 times"),
    "uneven": ({"learning_rates": (0.001, 0.002, 0.004, 0.0128)}, "geometric grid"),
    "one decay": ({"weight_decays": (0.05,)}, "at least 2"),
    "no decay": ({"weight_decays": (0.0, 0.05)}, "greater than 0"),
    "a size twice": ({"sizes": (64, 64)}, "none twice"),
    "no size": ({"sizes": ()}, "at least 1"),
    "few replicates": ({"replicates": {"min": 2}}, "greater than or equal to 3"),
    "few trials": ({"max_trials": 7}, "below the 8 trials of the grid"),
    "a slip": ({"max_trial": 7}, "Extra inputs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_no_fair_tuning_is_refused(name: str) -> None:
    content, message = REFUSED[name]
    with pytest.raises(ValidationError, match=message):
        TuningSpec.model_validate(content)


def test_all_sizes_are_those_of_the_study_whatever_they_are_overridden_to() -> None:
    rules = TuningSpec(sizes="all")
    assert rules.sizes_of([256, 64, 128]) == (64, 128, 256)
    assert rules.num_replicates(64, rules.sizes_of([256, 64])) == rules.replicates.min
