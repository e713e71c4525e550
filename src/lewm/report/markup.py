"""The few pieces of HTML that the page is made of. Arguments called ``text`` are escaped here; those called ``html`` must be safe already."""

import base64
from collections.abc import Mapping, Sequence
from html import escape as _escape
from pathlib import Path
from typing import Any


def escape(value: Any) -> str:
    """A value as text that is safe inside elements and quoted attributes."""
    return _escape(str(value), quote=True)


def section(identifier: str, title: str, *html: str) -> str:
    """A part of the page with its heading."""
    return (
        f'<section id="{identifier}" aria-labelledby="{identifier}-title"><h2 id="{identifier}-title">{escape(title)}</h2>\n'
        + "\n".join(html)
        + "\n</section>"
    )


def paragraph(html: str, kind: str = "") -> str:
    """A paragraph, of a kind that the style sheet knows."""
    return f'<p class="{kind}">{html}</p>' if kind else f"<p>{html}</p>"


def hint(what: str, *commands: str) -> str:
    """Says that a part was not measured, and which commands measure it."""
    lines = "".join(f"<pre><code>{escape(command)}</code></pre>" for command in commands)
    return f'<div class="hint"><p>{escape(what)}</p>{lines}</div>'


def table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of escaped cells whose first column names the row; on a phone each row becomes a card."""
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = "".join(f"<tr>{_cells(headers, row)}</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def facts(values: Mapping[str, str]) -> str:
    """Names and values, such as versions and hashes."""
    return '<dl class="facts">' + "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items()) + "</dl>"


def glossary(entries: Mapping[str, str]) -> str:
    """Words and what they mean."""
    return '<dl class="glossary">' + "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in entries.items()) + "</dl>"


def charts(*svgs: str, caption: str) -> str:
    """Charts side by side, below each other on a phone."""
    columns = {1: "one", 3: "three"}.get(len(svgs), "two")
    return f'<figure><div class="charts {columns}">{"".join(svgs)}</div><figcaption>{escape(caption)}</figcaption></figure>'


def film(gif: bytes, still: bytes, *, title: str, caption: str, width: int, height: int) -> str:
    """A film inside the page; people who asked their system for less motion see its last frame."""
    return (
        '<figure class="film"><picture>'
        f'<source media="(prefers-reduced-motion: reduce)" srcset="{_data("image/png", still)}">'
        f'<img src="{_data("image/gif", gif)}" width="{width}" height="{height}" alt="{escape(f"{title}: {caption}")}">'
        f"</picture><figcaption><strong>{escape(title)}.</strong> {escape(caption)}</figcaption></figure>"
    )


def picture(png: bytes, *, title: str, caption: str) -> str:
    """A picture inside the page."""
    return (
        f'<figure class="picture"><img src="{_data("image/png", png)}" alt="{escape(f"{title}: {caption}")}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def printed(text: str) -> str:
    """Text in columns, as a command prints it; a wide one scrolls by itself."""
    return f'<pre class="printed" tabindex="0"><code>{escape(text)}</code></pre>'


def commands(lines: Sequence[str]) -> str:
    """Shell commands, one below the other."""
    return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"


def document(title: str, html: str) -> str:
    """The whole page: nothing in it is fetched from anywhere."""
    style = (Path(__file__).parent / "page.css").read_text()
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{html}\n</body>\n</html>\n"
    )


def _cells(headers: Sequence[str], row: Sequence[str]) -> str:
    first = f'<th scope="row">{escape(row[0])}</th>'
    return first + "".join(f'<td data-label="{escape(header)}">{escape(cell)}</td>' for header, cell in zip(headers[1:], row[1:], strict=True))


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
