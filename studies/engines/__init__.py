"""Where cells run. An engine dispatches jobs, tuples of cell ids; the store alone knows what is done."""

from .engine import Engine, Outcome, make_engine, worker_devices
from .local import LocalEngine

__all__ = ["Engine", "LocalEngine", "Outcome", "make_engine", "worker_devices"]
