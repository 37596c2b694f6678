"""The notes of a plan as people read them.

The notes themselves are hashed with the plan, so that their wording is locked like all of it. What is told is the same
in plain words, and what the locked notes leave out although it follows from the plan.
"""

from __future__ import annotations

import re

from .fairness import exact_cost_notes
from .grid import Plan

_NETWORKS = r"(?P<arms>[^ ]+(?:, [^ ]+)*)"
_RESIZED = r"(?: and are applied to images of (?P<px>\d+) px)?"
_UNSEEN = re.compile(r"Branches that see fewer images than N once: (?P<listed>.+)\.")
_BEGUN = re.compile(
    _NETWORKS
    + r" begin from (?P<name>[^ ]+): (?P<objective>\w+) on (?P<images>.+? images of .+? \(\d+ px\)), replicate "
    r"r from replicate r"
    + _RESIZED
    + r"\. It cost (?P<cost>.+?) training FLOPs a run, which are no part of any budget "
    r"here\.(?P<rest>.*)"
)
_FROM_FILE = re.compile(
    _NETWORKS + r" begin from weights trained elsewhere \((?P<what>.+?)\)" + _RESIZED + r", the same for every "
    r"replicate\. What they cost (?P<cost>.+?); it is no part of any budget here\."
)


def told_notes(plan: Plan) -> tuple[str, ...]:
    """What a reader must know of a plan: its notes, and the exact cost where networks of unequal FLOPs are allowed."""
    told = [_plain(note) for note in plan.notes]
    if plan.spec.allow_unequal_flops:
        told += exact_cost_notes(plan.arms)
    return tuple(told)


def _plain(note: str) -> str:
    """A locked note in plain words; most are so already."""
    if found := _UNSEEN.fullmatch(note):
        return f"Branches that end before each of the N images was seen once: {found['listed']}."
    if found := _BEGUN.fullmatch(note):
        start = (
            f"{_subject(found)} from the weights of {found['name']}, trained on {found['images']} "
            f"(objective: {found['objective']}); each replicate starts from the same replicate of {found['name']}."
        )
        cost = f" One such training cost {found['cost']} training FLOPs, which no budget here includes."
        return start + _applied(found) + cost + found["rest"]
    if found := _FROM_FILE.fullmatch(note):
        start = f"{_subject(found)} from weights trained elsewhere ({found['what']}), the same for every replicate."
        cost = "is not known" if found["cost"] == "is not known" else f"{found['cost']}, which no budget here includes"
        return f"{start}{_applied(found)} What they cost {cost}."
    return note


def _subject(found: re.Match[str]) -> str:
    return f"{found['arms']} {'start' if ', ' in found['arms'] else 'starts'}"


def _applied(found: re.Match[str]) -> str:
    return f" The networks are then applied to images of {found['px']} px." if found["px"] else ""
