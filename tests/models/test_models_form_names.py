"""The forms of a transformer: read as they are written, and refused with the reason where parts do not go together."""

from __future__ import annotations

import pytest
from nano_transformers import IMAGES, PLACES

from models.registry import build_network, variants
from models.tiers import split_variant
from models.transformer_form import PositionKind, PositionSite, TransformerForm, form_names, parse_form, why_not_form


def test_every_form_is_read_as_it_is_written() -> None:
    assert len(form_names()) == len(set(form_names())) == 63
    assert len(PLACES) == 15
    for name in ("", *form_names()):
        assert parse_form(name).name == name
    assert set(form_names()) == {split_variant(variant)[1] for variant in variants("vit")} - {""}


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("nopos-every", "without a position embedding there is nothing to place"),
        ("nopos-shared-cls", "without a position embedding there is nothing to place"),
        ("sin2d-shared", "sinusoids are fixed"),
        ("rotary-every", "acts in every layer by nature"),
        ("rotary-shared", "no parameters to share"),
        ("relbias-every", "in every layer by nature: leave the site out, or write 'shared'"),
        ("relquery-every", "in every layer by nature"),
        ("cls-every", "'every' is not a part of a form at this place; a form is written [position][-site]"),
        ("regularized-cls", "'cls' is not a part"),
        ("learned3d", "position one of nopos, learned2d, sin1d, sin2d, relbias, relquery, rotary"),
        ("stem", "'stem' is not a part"),
    ],
)
@pytest.mark.parametrize("family", ["vit", "hybrid"])
def test_what_does_not_go_together_is_refused_with_the_reason(family: str, form: str, said: str) -> None:
    assert said in str(why_not_form(form))
    with pytest.raises(ValueError, match=f"family '{family}' has no variant 'nano-{form}'") as refused:
        build_network(family, f"nano-{form}", **IMAGES)
    assert said in str(refused.value)


def test_attention_is_not_told_at_a_stem() -> None:
    for kind in PositionKind:
        if kind.in_attention:
            with pytest.raises(ValueError, match="which a stem does not have"):
                TransformerForm(kind, PositionSite.STEM)
