"""What the forkserver imports once, so that a worker starts in a third of a second instead of ten.

timm imports wandb for a logger of its own wherever wandb is installed. A worker has no use for it, so it is hidden
meanwhile. Ctrl-C is the launcher's affair: a traceback of half an import helps nobody. The forkserver looks for its
launcher only once all is imported, which takes long on a busy machine; a thread looks meanwhile, and is gone before the
first fork. USR2, which some queueing systems send to every process of a job, is heard by workers once they have begun.
"""

import os
import signal
import sys
import threading


def _end_with(launcher: int, imported: threading.Event) -> None:
    while not imported.wait(0.2):
        if os.getppid() != launcher:
            os._exit(1)


signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
_imported = threading.Event()
_watch = threading.Thread(target=_end_with, args=(os.getppid(), _imported), daemon=True)
_watch.start()
sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]  # None makes the import fail, which timm allows for
try:
    import studies.train  # noqa: F401
    from studies.sources import code_version

    code_version()  # of the sources just read, whatever becomes of them while the study runs
finally:
    _imported.set()
    _watch.join()
    if sys.modules.get("wandb") is None:
        del sys.modules["wandb"]
