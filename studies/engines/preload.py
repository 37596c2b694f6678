"""What the forkserver imports once, so that a worker starts in a third of a second instead of ten.

timm imports wandb for a logger of its own wherever wandb is installed. A worker has no use for it, so it is hidden
meanwhile. Ctrl-C is the launcher's affair: a traceback of half an import helps nobody. So is USR2, which some
queueing systems send to every process of a job; workers listen to it once they have begun.
"""

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]  # None makes the import fail, which timm allows for
try:
    import studies.train  # noqa: F401
finally:
    if sys.modules.get("wandb") is None:
        del sys.modules["wandb"]
