"""Where `study` and `python -m studies` begin; what they load comes after Ctrl-C has been provided for."""

from __future__ import annotations

import gc
import sys

from .interruption import told_once


def main() -> None:
    """Loads the command line and runs it."""
    with told_once():
        from .cli import main as command_line

        try:
            command_line()
        finally:
            if "torch" not in sys.modules:  # whose compiler complains at length of what is never freed
                gc.freeze()  # Python seeks cycles as it ends, in all there is: of thousands of records for nothing


if __name__ == "__main__":
    main()
