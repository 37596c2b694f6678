"""Where cells run. An engine dispatches cell ids; the store alone knows what is done."""

from .local import LocalEngine, Outcome

__all__ = ["LocalEngine", "Outcome"]
