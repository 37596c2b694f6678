"""Tables in a narrow terminal: names are whole, other columns wrap or give way."""

from __future__ import annotations

import io

from rich.console import Console

from studies.name_table import NameTable

LONG = "vit-learned2d-shared+supervised"


def printed(width: int, expendable: tuple[str, ...] = ()) -> str:
    table = NameTable("arm", "variant", *(f"column number {index}" for index in range(6)), expendable=expendable)
    table.add_row(LONG, "nano-learned2d-shared", *(["1.294 MFLOP"] * 6))
    file = io.StringIO()
    Console(file=file, width=width, soft_wrap=True).print(table)
    assert max(map(len, file.getvalue().splitlines())) <= width
    return file.getvalue()


def test_names_are_whole_at_eighty_columns() -> None:
    assert LONG in printed(80)
    assert "…" not in printed(80)


def test_expendable_columns_give_way_before_any_word_is_broken() -> None:
    text = printed(110, ("variant", "column number 5"))
    assert "nano-learned2d-shared" not in text
    assert text.count("MFLOP") == 6
    assert printed(85, ("variant", "column number 5")).count("MFLOP") == 5


def test_with_room_nothing_is_left_out() -> None:
    text = printed(220, ("variant",))
    assert "nano-learned2d-shared" in text
    assert text.count("1.294 MFLOP") == 6
