"""One self-contained HTML page: no script, no request, readable in light and dark, printable."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from .card import StudyCard
from .tables import Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #5b6470; --line: #dfe3e8; --paper: #ffffff; --card: #f6f7f9;
  --accent: #0b5cad; --warn: #7a4b00; --warn-paper: #fff5e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --muted: #a3acb8; --line: #343a42; --paper: #14171b;
  --card: #1d2126; --accent: #7db8f2; --warn: #ffd48a; --warn-paper: #33270f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.58 system-ui, -apple-system, "Segoe UI",
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: .2rem 0 .6rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 46rem; }
.eyebrow { color: var(--muted); font-size: .88rem; margin: 0; }
.question { font-size: 1.16rem; color: var(--muted); margin: 0 0 1.4rem; }
.progress { background: var(--warn-paper); color: var(--warn); border-left: 4px solid currentColor; padding: .7rem 1rem;
  border-radius: 4px; }
.answer { background: var(--card); border-left: 4px solid var(--accent); border-radius: 4px; padding: .3rem 1.2rem; }
.answer p { margin: .65rem 0; }
.answer p:first-child { font-size: 1.08rem; font-weight: 600; }
figure { margin: 1.4rem 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; padding: .6rem; }
figcaption, .note { color: var(--muted); font-size: .88rem; margin: .5rem 0 0; max-width: 50rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { padding: .34rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { border-bottom: 2px solid var(--muted); font-weight: 600; vertical-align: bottom; white-space: normal; }
th.label, td.label { text-align: left; }
table.prose { min-width: 100%; } .prose th, .prose td { text-align: left; white-space: normal; vertical-align: top; }
.prose td:last-child { overflow-wrap: anywhere; }
.wrapped td.label { white-space: normal; } .wrapped th, .wrapped td { padding-inline: .4rem; }
details { margin: 1.2rem 0; } summary { cursor: pointer; color: var(--accent); }
section > details.section { margin: 0; } details.section > summary { color: var(--ink); }
details.section > summary h2 { display: inline; border: 0; margin: 0; padding: 0; }
section:has(> details.section) { border-top: 1px solid var(--line); margin-top: 1.4rem; padding-top: 1.1rem; }
code { font-size: .9em; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .92rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
@media print { details::details-content { content-visibility: visible; } }
@media print { main { max-width: none; padding: 0; } figure, .table { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Picture:
    """A figure of the page: its SVG, what it shows in words, and its width in print."""

    name: str
    svg: bytes
    caption: str
    alternative: str
    inches: float


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, pictures and tables, in this order; `folded` tables hide behind a click.

    A `closed` section hides behind its heading.
    """

    heading: str
    paragraphs: Sequence[str] = ()
    remarks: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = ()
    closed: bool = False


def render_page(card: StudyCard, progress: str, answers: Sequence[str], sections: Sequence[Section]) -> str:
    """The page: title and question, progress where the study is incomplete, the answer, then the sections."""
    title = html.escape(card.name.replace("_", " "))
    answer = "".join(f"<p>{html.escape(text)}</p>" for text in answers)
    parts = [
        f'<p class="eyebrow">Study {html.escape(card.study_id)} · {html.escape(card.data_name)} · protocol '
        f"{html.escape(card.protocol_version)}</p>",
        f"<h1>{title[:1].upper()}{title[1:]}</h1>",
        f'<p class="question">{html.escape(card.question)}</p>',
        f'<p class="progress">{html.escape(progress)}</p>' if progress else "",
        f'<div class="answer">{answer}</div>' if answers else "",
        *map(_section, sections),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" '
        f'content="width=device-width, initial-scale=1">\n<title>{title}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    heading = f"<h2>{html.escape(section.heading)}</h2>"
    parts = [] if section.closed else [heading]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
    if section.remarks:
        parts.append("<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in section.remarks) + "</ul>")
    parts += map(_picture, section.pictures)
    parts += [table.html() for table in section.tables]
    if section.facts:
        facts = "".join(f"<dt>{html.escape(term)}</dt><dd>{html.escape(value)}</dd>" for term, value in section.facts)
        parts.append(f"<dl>{facts}</dl>")
    parts += [f"<details><summary>{html.escape(t.title)}</summary>{t.html()}</details>" for t in section.folded]
    body = "\n".join(parts)
    if section.closed:
        body = f'<details class="section"><summary>{heading}</summary>\n{body}\n</details>'
    return f"<section>\n{body}\n</section>"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.svg).decode()
    return (
        f'<figure id="{html.escape(picture.name)}"><img style="max-width: {7 * picture.inches:.1f}rem" '
        f'alt="{html.escape(picture.alternative)}" '
        f'src="data:image/svg+xml;base64,{data}"><figcaption>{html.escape(picture.caption)}</figcaption></figure>'
    )
