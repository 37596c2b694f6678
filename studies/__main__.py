"""Where `study` and `python -m studies` begin; what they load comes after Ctrl-C has been provided for."""

from __future__ import annotations

from .interruption import told_once


def main() -> None:
    """Loads the command line and runs it."""
    with told_once():
        from .cli import main as command_line

        command_line()


if __name__ == "__main__":
    main()
