"""A page as one HTML file: no script, no network, a heading, links to its sections, tables that a phone can scroll."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from backdrop.stores.pages.style import CSS

# Characters of a setting that are shown.
_LONGEST_VALUE = 300


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page: anchor for links, heading as text, body as HTML."""

    anchor: str
    heading: str
    body: str


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return a whole page. What cannot be written as UTF-8, as in the key of a file whose name is none, is a "?" on it.

    Args: title: text. lead: HTML between the title and the links to the sections. sections: in order.
    """
    links = "".join(f'<li><a href="#{each.anchor}">{escape(each.heading)}</a></li>' for each in sections)
    body = "".join(
        f'<section id="{each.anchor}"><h2>{escape(each.heading)}</h2>{each.body}</section>' for each in sections
    )
    html = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # A page that asks for no icon of its own makes a server say that there is none.
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{lead}"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header><main>{body}</main></body></html>\n'
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, label: str, num_text_columns: int = 1) -> str:
    """Return a table whose first column names its rows.

    Args: head, rows: cells as HTML, rows as long as the head. label: what the table is about, for those who cannot see
        it. num_text_columns: the columns from the left that hold words; the others hold numbers, set to the right.
    """
    kinds = ["" if column < num_text_columns else ' class="n"' for column in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{cell}</th>' for cell, kind in zip(head, kinds, strict=True))
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(rest, kinds[1:], strict=True))
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>'
    return scrolling(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>", label)


def facts_table(rows: Sequence[tuple[str, object]], *, label: str) -> str:
    """Return a two-column table of names and values, both escaped."""
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="value">{value_html(value)}</td></tr>'
        for name, value in rows
    )
    return scrolling(f"<table><tbody>{body}</tbody></table>", label)


def scrolling(html: str, label: str) -> str:
    """Return HTML that may be wider than the page in a box of its own, which the keyboard can scroll too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{html}</div>'


def headline(facts: Sequence[tuple[str, str, str]]) -> str:
    """Return the few numbers a reader looks for first: (name, value, note), as text."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)} <small>{escape(note)}</small></dd></div>"
        for name, value, note in facts
    )
    return f'<dl class="headline">{items}</dl>'


def picture(image: str, caption: str, kind: str = "") -> str:
    """Return a picture with its caption, both HTML, as a <figure> of a class."""
    return f'<figure class="{kind}">{image}<figcaption>{caption}</figcaption></figure>'


def command(text: str) -> str:
    """Return a command line as it is typed; a long one scrolls."""
    return f'<pre tabindex="0" role="region" aria-label="command">{escape(text)}</pre>'


def folded(summary: str, body: str) -> str:
    """Return HTML that is unfolded on request, and in print. Args: summary: text. body: HTML."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def value_html(value: object) -> str:
    """Return a setting or a fact as HTML; of a long text, such as thousands of rows left out, how it begins."""
    if isinstance(value, str) and len(value) > _LONGEST_VALUE:
        value = f"{value[:_LONGEST_VALUE]} ... ({len(value):,} characters, all of them in the run's settings.json)"
    if isinstance(value, float):
        return escape(f"{value:.6g}")
    if isinstance(value, list | tuple):
        return escape(", ".join(f"{item:.6g}" if isinstance(item, float) else str(item) for item in value))
    return escape(value if isinstance(value, str) else json.dumps(value, default=str))
