"""What a pair differs in is what its multiplier is called by."""

from __future__ import annotations

import pytest

from studies.analysis.traits import Traits, differs_in

PLAIN = Traits("vit", "nano", "", "", 16)


@pytest.mark.parametrize(
    ("other", "called"),
    [
        (Traits("resnet", "nano", "", "", 16), "prior"),
        (Traits("vit", "micro", "", "", 16), "size"),
        (Traits("vit", "nano", "nopos", "", 16), "position embedding"),
        (Traits("vit", "nano", "learned2d-every-cls", "", 16), "class token and position embedding"),
        (Traits("vit", "nano", "", "masked", 16), "start"),
        (Traits("vit", "nano", "unheard-of", "", 16), "form"),
        (Traits("vit", "micro", "", "", 32), "size and image size designed for"),
    ],
)
def test_two_arms_of_one_family_differ_in_what_changed(other: Traits, called: str) -> None:
    assert differs_in("a", "b", {"a": PLAIN, "b": other}) == called


def test_what_two_forms_share_is_no_difference() -> None:
    one, other = (Traits("vit", "nano", form, "", 16) for form in ("nopos-cls", "cls-sin2d-every"))
    assert differs_in("a", "b", {"a": one, "b": other}) == "position embedding"


def test_families_of_a_strange_table_differ_in_their_prior() -> None:
    assert differs_in("a", "b", {}) == "prior"
