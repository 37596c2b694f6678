"""What an override of `families` means for the arms it leaves out, where the study file gives them more than a name.

A study file may give arms replicates of their own and names its primary pair. Who then asks for other families has not
asked for those: replicates of arms that are left out are dropped, and a pair that lost an arm is none. Both are told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arms import canonical_arm


def without_left_out_arms(
    content: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The same without what the study file says of arms that an override left out; nothing that was overridden changes.

    Args:
        content: of the study file with its overrides, not validated yet.
        overrides: in Hydra's grammar.

    Returns:
        The content, and what was dropped, a sentence each.
    """
    kept, notes = dict(content), list[str]()
    asked = {override.lstrip("+").partition("=")[0] for override in overrides}
    tier, families = str(content.get("tier")), content.get("families")
    if "families" not in asked or not isinstance(families, list):
        return kept, ()
    arms = {_written(arm, tier) for arm in families}
    replicates, pair = content.get("replicates"), content.get("primary_pair")
    if isinstance(replicates, dict) and "replicates" not in asked:
        gone = [arm for arm in replicates if arm != "default" and _written(arm, tier) not in arms]
        gone = [arm for arm in gone if f"replicates.{arm}" not in asked]
        kept["replicates"] = {arm: count for arm, count in replicates.items() if arm not in gone}
        if gone:
            notes.append(
                f"families leaves out {', '.join(gone)}, to which the study file gives replicates of "
                f"{'its' if len(gone) == 1 else 'their'} own; all arms that it does not name have "
                f"{replicates.get('default')}"
            )
    if isinstance(pair, list) and "primary_pair" not in asked:
        gone = [arm for arm in pair if _written(arm, tier) not in arms]
        if gone:
            kept["primary_pair"] = None
            notes.append(
                f"families leaves out {' and '.join(gone)} of the study file's primary_pair, so that none is declared: "
                f"{_instead(len(arms))}"
            )
    return kept, tuple(notes)


def _instead(num_arms: int) -> str:
    """What is compared without a declared pair, and what a person can do about it."""
    declare = "primary_pair=[A,B]', the stronger prior first"
    if num_arms == 2:
        return f"the two arms are compared in their order; to have them in another add '{declare}"
    return f"to compare two arms add '{declare}"


def _written(arm: object, tier: str) -> str:
    """An arm in the one way to write it; what is none is for the study to refuse."""
    try:
        return canonical_arm(str(arm), tier)
    except ValueError:
        return str(arm)
