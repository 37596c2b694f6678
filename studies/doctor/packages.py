"""What is installed, by its metadata alone: versions against what this package and its libraries ask for."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .finding import Finding, broken, fine, some, warning

PACKAGE = "inductive-bias-study"
OWN = ("models", "datamodules", "studies", "configs")
MALICIOUS = dict.fromkeys(("pytorch-lightning", "lightning"), ("2.6.2", "2.6.3"))
"""Distribution -> versions that carry malicious code, which runs as they are imported (GHSA-w37p-236h-pfx3)."""
ADVICE = "install the versions that were tested: `make install` in the checkout, or pip install -r requirements.lock"


def malicious() -> list[tuple[str, str]]:
    """Installed distributions, with their version, that must not even be imported."""
    return [(name, version) for name, bad in MALICIOUS.items() if (version := _version(name)) in bad]


def security() -> Iterator[Finding]:
    """Whether a release of Lightning is installed that steals credentials."""
    found = malicious()
    for name, version in found:
        yield broken(
            "installation: malicious releases",
            f"{name} {version} carries malicious code (GHSA-w37p-236h-pfx3); it was not imported here",
            f"remove it at once (pip uninstall {name}), treat the keys and tokens of this account as stolen, and "
            "install 2.6.6 or newer",
        )
    if not found:
        yield fine("installation: malicious releases", "none of those known")


def versions() -> Iterator[Finding]:
    """The interpreter and every library this package needs, against the bounds it declares."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    check = "installation: versions"
    try:
        metadata = importlib.metadata.metadata(PACKAGE)
        declared = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        yield warning(
            check, f"{PACKAGE} is not installed, so that its bounds are not known", "pip install --no-deps -e ."
        )
        return
    python, faults = platform.python_version(), []
    if python not in SpecifierSet(metadata["Requires-Python"] or ""):
        faults.append(f"Python {python} where {metadata['Requires-Python']} is needed")
    needed = [one for one in map(Requirement, declared) if one.marker is None or one.marker.evaluate({"extra": ""})]
    for one in needed:
        version = _version(one.name)
        if version is None:
            faults.append(f"{one.name} is missing ({one.specifier} is needed)")
        elif not one.specifier.contains(version, prereleases=True):
            faults.append(f"{one.name} {version} where {one.specifier} is needed")
    for fault in faults:
        yield broken(check, fault, ADVICE)
    if not faults:
        yield fine(check, f"Python {python} and {len(needed)} libraries within their bounds, torch {_version('torch')}")


def agreement() -> Iterator[Finding]:
    """Whether the installed libraries fit each other: each one's own bounds, as far as they reach from this package."""
    from packaging.requirements import Requirement

    check = "installation: libraries that fit"
    faults, seen, waiting = [], set[str](), [PACKAGE]
    while waiting:
        owner = waiting.pop()
        if owner in seen or (version := _version(owner)) is None:
            continue
        seen.add(owner)
        for told in importlib.metadata.requires(owner) or []:
            one = Requirement(told)
            if one.marker is not None and not one.marker.evaluate({"extra": ""}):
                continue
            waiting.append(one.name)
            other = _version(one.name)
            fits = other is not None and one.specifier.contains(other, prereleases=True)
            if owner != PACKAGE and not fits:  # its own bounds are the check before
                there = "is missing" if other is None else f"is {other}"
                faults.append(f"{owner} {version} needs {one.name}{one.specifier}, which {there}")
    for fault in faults:
        yield broken(check, fault, ADVICE)
    if not faults:
        yield fine(check, f"{len(seen)} distributions agree with each other")


def doubles() -> Iterator[Finding]:
    """Libraries that are installed twice in one folder, as an interrupted upgrade leaves them."""
    found: Counter[tuple[str, str]] = Counter()
    for one in importlib.metadata.distributions():
        name = one.metadata["Name"]
        found[str(name).lower().replace("_", "-"), str(one.locate_file(""))] += 1
    check = "installation: leftovers of upgrades"
    twice = sorted(name for (name, _), count in found.items() if count > 1)
    if twice:
        yield broken(check, f"installed twice in one folder: {some(twice, 5)}", f"remove and install again: {twice[0]}")
    else:
        yield fine(check, "none")


def names() -> Iterator[Finding]:
    """Whether the packages of this project are its own, and not those of another project with the same names."""
    check = "installation: package names"
    here = Path(__file__).resolve().parents[2]
    others = []
    for name in OWN:
        spec = importlib.util.find_spec(name)
        origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if origin is None or origin.parents[1] != here:
            others.append(f"{name} is {'missing' if origin is None else f'that of {origin.parent}'}")
    if others:
        told = f"{'; '.join(others)}, where {here} was expected"
        yield broken(check, told, "install this package into an environment of its own")
    else:
        yield fine(check, f"{', '.join(OWN)} are those of {here}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
