"""Where cells run. An engine dispatches jobs, tuples of cell ids; the store alone knows what is done."""

from .local import LocalEngine, Outcome

__all__ = ["LocalEngine", "Outcome"]
