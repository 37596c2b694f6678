"""Whether a machine, an installation and a store can carry a study, and what to do where they cannot.

Every check is one function in the file of its subject that yields `Finding`s; `examine` calls them all. Nothing here
imports a library that may be broken: such ones are tried in other processes.
"""

from __future__ import annotations

from .examination import examine
from .finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
