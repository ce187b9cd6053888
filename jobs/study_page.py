"""The parts that a report is made of, and one HTML page of them: no script, no external resource, plots as inline SVG.

A forest plot places everything by percent of its width, so its text keeps its size on a phone and on a desk. Whether an
interval excludes zero is told by a filled dot, never by colour alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

UNDEFINED = "–"


class Text(NamedTuple):
    """A paragraph; `code` stands between backticks."""

    text: str


class Bullets(NamedTuple):
    """A list: what each item is about, set apart, then what it says."""

    items: Sequence[tuple[str, str]]


class Grid(NamedTuple):
    """A table; its cells are written out, the first of each row names the row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Interval(NamedTuple):
    """One row of a forest plot, in points. What follows a comma in the label is set smaller, below it."""

    label: str
    middle: float | None
    low: float | None
    high: float | None


class Forest(NamedTuple):
    """Intervals around a zero line."""

    caption: str
    rows: Sequence[Interval]


class Point(NamedTuple):
    """One point of a panel, with its interval if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Panel(NamedTuple):
    """A small plot: one square from 0 to 1 with its diagonal, or fitted to its points with a zero line."""

    title: str
    series: Sequence[tuple[str, Sequence[Point]]]
    unit_square: bool


class Panels(NamedTuple):
    """Small plots side by side, with the same axes and the same series."""

    caption: str
    x_label: str
    y_label: str
    panels: Sequence[Panel]


class Section(NamedTuple):
    """A heading and what is below it; folded: shown when asked for."""

    title: str
    blocks: Sequence[Block]
    folded: bool = False


Block = Text | Bullets | Grid | Forest | Panels | Section


def signed(value: float | None) -> str:
    """A difference in points: `+1.54`, `−0.30`."""
    return UNDEFINED if value is None else f"{value:+z.2f}".replace("-", "−")


def bracketed(middle: float | None, low: float | None, high: float | None) -> str:
    """A difference with its interval: `+1.54 [+0.20, +2.90]`."""
    return f"{signed(middle)} [{signed(low)}, {signed(high)}]"


def verdict(low: float | None, high: float | None) -> str:
    """What an interval says of zero."""
    if low is None or high is None:
        return "not defined"
    return "above zero" if low > 0 else "below zero" if high < 0 else "inside the noise"


def page(report: Section) -> str:
    """The whole report as one HTML document."""
    first, *rest = report.blocks
    tops = [block for block in rest if isinstance(block, Section)]
    links = "".join(
        f'<li><a href="#part-{at}">{escape(part.title)}</a></li>' for at, part in enumerate(tops) if not part.folded
    )
    body = [_block(first, 2).replace("<p>", '<p class="lead">', 1)]
    body.append(f'<nav aria-label="Contents"><ol>{links}</ol></nav>')
    body += [_block(block, 2, f"part-{tops.index(block)}" if isinstance(block, Section) else "") for block in rest]
    title = escape(report.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{title}</h1>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def _block(block: Block, level: int, anchor: str = "") -> str:
    match block:
        case Text(text):
            return f"<p>{_prose(text)}</p>"
        case Bullets(items):
            said = "".join(f"<li><strong>{_prose(about)}</strong> {_prose(item)}</li>" for about, item in items)
            return f"<ul>{said}</ul>"
        case Grid():
            return _grid(block)
        case Forest(caption, rows):
            return f"<figure><figcaption>{_prose(caption)}</figcaption>{_forest(caption, rows)}</figure>"
        case Panels():
            return _panels(block)
        case Section(title, blocks, folded):
            inside = "\n".join(_block(part, min(level + 1, 6)) for part in blocks)
            named = f' id="{anchor}"' if anchor else ""
            if folded:
                return f"<details{named}><summary>{escape(title)}</summary>\n{inside}\n</details>"
            return f"<section{named}>\n<h{level}>{escape(title)}</h{level}>\n{inside}\n</section>"


def _prose(text: str) -> str:
    unbroken = re.sub(r"(?<=\d) %", "\u00a0%", escape(text))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", unbroken)


_NUMBER = re.compile(r"[+−]?[\d,]+(\.\d+)?( %)?( [\[(].*[\])])?|" + UNDEFINED)


def _grid(grid: Grid) -> str:
    numeric = [all(_NUMBER.fullmatch(row[at]) for row in grid.rows) for at in range(len(grid.head))]
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(f'<th scope="col"{kind}>{_prose(name)}</th>' for name, kind in zip(grid.head, kinds, strict=True))
    rows = "".join(
        f'<tr><th scope="row">{_prose(row[0])}</th>'
        + "".join(f"<td{kind}>{_prose(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True))
        + "</tr>\n"
        for row in grid.rows
    )
    caption = _prose(grid.caption)
    return (
        f'<figure><figcaption>{caption}</figcaption><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(grid.caption)}"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'
        "</figure>"
    )


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two ends, `most` or fewer."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [step * at for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _scale(values: Sequence[float], start: float, end: float) -> tuple[float, float, Callable[[float], float]]:
    """The ends of an axis that holds zero and all values, and where on it a value lies."""
    low, high = min(0.0, *values), max(0.0, *values)
    margin = (high - low or 1.0) * 0.04
    low, high = low - margin, high + margin
    return low, high, lambda value: start + (value - low) / (high - low) * (end - start)


_ROW, _LEFT, _RIGHT = 32, 37.0, 83.0


def _forest(caption: str, rows: Sequence[Interval]) -> str:
    values = [value for row in rows for value in row[1:] if value is not None]
    low, high, place = _scale([0.0, *values], _LEFT, _RIGHT)
    bottom = _ROW * len(rows)
    said = "; ".join(f"{row.label} {bracketed(*row[1:])}, {verdict(row.low, row.high)}" for row in rows)
    parts = [
        f'<svg class="forest" role="img" width="100%" height="{bottom + 24}" '
        f'aria-label="{escape(f"{caption}: {said}")}">'
        f"<title>{escape(caption)}</title>"
    ]
    for tick in _ticks(low, high, 5):
        x = f"{place(tick):.2f}%"
        parts.append(f'<line class="{"zero" if tick == 0 else "rule"}" x1="{x}" x2="{x}" y1="0" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 17}" text-anchor="middle">{_number(tick)}</text>')
    for at, row in enumerate(rows):
        y = _ROW * at + _ROW // 2
        name, _, note = row.label.partition(", ")
        # A nested svg cuts a name that is too long, so that it never runs into the plot.
        parts.append(f'<svg y="{_ROW * at}" width="{_LEFT - 1}%" height="{_ROW}">')
        parts.append(f'<text y="{14 if note else 20}">{escape(name)}</text>')
        parts.append(f'<text class="tick" y="27">{escape(note)}</text></svg>' if note else "</svg>")
        parts.append(
            f'<g class="{_kind(row.low, row.high)}"><title>{escape(f"{row.label}: {bracketed(*row[1:])}")}</title>'
        )
        if row.low is not None and row.high is not None:
            parts.append(f'<line x1="{place(row.low):.2f}%" x2="{place(row.high):.2f}%" y1="{y}" y2="{y}"/>')
        if row.middle is not None:
            parts.append(f'<circle cx="{place(row.middle):.2f}%" cy="{y}" r="4.5"/>')
        parts.append(f'</g><text x="100%" y="{y + 4}" text-anchor="end">{signed(row.middle)}')
        parts.append(f'<tspan class="ends"> [{signed(row.low)}, {signed(row.high)}]</tspan></text>')
    return "".join(parts) + "</svg>"


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _kind(low: float | None, high: float | None) -> str:
    return verdict(low, high).split()[0]


def _panels(block: Panels) -> str:
    names = [name for name, _ in block.panels[0].series]
    keys = "".join(f'<span class="key series-{at}">{escape(name)}</span>' for at, name in enumerate(names))
    drawn = "".join(_panel(panel, block) for panel in block.panels)
    return f'<figure><figcaption>{_prose(block.caption)} {keys}</figcaption><div class="panels">{drawn}</div></figure>'


_START, _END = 56, 232


def _panel(panel: Panel, block: Panels) -> str:
    points = [point for _, series in panel.series for point in series]
    if panel.unit_square:
        xs, ys = [0.0, 0.5, 1.0], [0.0, 0.5, 1.0]
        _, _, across = _scale(xs, _START, _END)
        _, _, up = _scale(ys, 168, 24)
        reference = f'<line class="zero" x1="{across(0):.1f}" y1="{up(0):.1f}" x2="{across(1):.1f}" y2="{up(1):.1f}"/>'
    else:
        xs = sorted({point.x for point in points})
        _, _, across = _scale(xs, _START, _END)
        low, high, up = _scale([v for p in points for v in (p.y, p.low, p.high) if v is not None], 168, 24)
        ys = _ticks(low, high, 5)
        reference = f'<line class="zero" x1="{_START}" x2="{_END}" y1="{up(0):.1f}" y2="{up(0):.1f}"/>'
    said = "; ".join(
        f"{name}: " + ", ".join(f"{point.x:.3g} gives {point.y:.3g}" for point in series)
        for name, series in panel.series
    )
    title = escape(panel.title)
    parts = [
        f'<div><p class="name">{title}</p><svg class="panel" role="img" viewBox="0 12 240 198" '
        f'aria-label="{title}. {escape(said)}"><title>{title}</title>'
    ]
    for y in ys:
        parts.append(f'<text class="tick" x="{_START - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{_number(y)}</text>')
        parts.append(f'<line class="rule" x1="{_START}" x2="{_END}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
    parts.append(reference)
    parts += [f'<text class="tick" x="{across(x):.1f}" y="184" text-anchor="middle">{x:g}</text>' for x in xs]
    parts.append(f'<text class="tick" x="144" y="202" text-anchor="middle">{escape(block.x_label)}</text>')
    parts.append('<text class="tick" transform="translate(10 96) rotate(-90)" text-anchor="middle">')
    parts.append(f"{escape(block.y_label)}</text>")
    for at, (_, series) in enumerate(panel.series):
        line = " ".join(f"{across(point.x):.1f},{up(point.y):.1f}" for point in series)
        parts.append(f'<g class="series-{at}"><polyline points="{line}"/>')
        for point in series:
            x, y = across(point.x), up(point.y)
            if point.low is not None and point.high is not None:
                parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up(point.low):.1f}" y2="{up(point.high):.1f}"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>')
        parts.append("</g>")
    return "".join(parts) + "</svg></div>"


_STYLE = """
:root { color-scheme: light dark; --paper: #fdfcfa; --ink: #1d1e20; --soft: #5a5f66; --rule: #dcd9d2; --shade: #f4f2ed;
  --above: #0b6a68; --below: #a8361a; --inside: #666b72; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e7e5e0; --soft: #a9aeb6; --rule: #363a40;
  --shade: #1f2226; --above: #62c6be; --below: #f3926f; --inside: #a0a6ae; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.6 Charter, "Iowan Old Style",
  "Palatino Linotype", Palatino, Georgia, "Liberation Serif", serif; overflow-wrap: break-word; }
main { max-width: 64rem; margin: 0 auto; padding: 3rem 1.25rem 5rem; }
h1 { font-size: clamp(1.7rem, 5vw, 2.4rem); line-height: 1.2; font-weight: 600; margin: 0 0 1.2rem;
  letter-spacing: -0.01em; }
h2 { font-size: 1.5rem; line-height: 1.3; font-weight: 600; margin: 3.5rem 0 0.8rem; padding-top: 1.2rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.15rem; font-weight: 600; margin: 2.2rem 0 0.5rem; }
p, li { max-width: 44rem; }
.lead { font-size: 1.2rem; line-height: 1.6; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: 0.2em; }
code { font: 0.85em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
nav ol { list-style: none; display: flex; flex-wrap: wrap; gap: 0.2rem 1.3rem; padding: 0; margin: 1.5rem 0; }
nav, figure, summary { font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
nav { font-size: 0.9rem; }
figure { margin: 1.4rem 0 1.8rem; font-size: 0.85rem; line-height: 1.45; }
figcaption { color: var(--soft); margin-bottom: 0.6rem; max-width: 48rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; min-width: min(100%, 30rem); font-variant-numeric: tabular-nums lining-nums;
  border: solid var(--ink); border-width: 1.5px 0; }
th, td { padding: 0.32rem 1.1rem 0.32rem 0; text-align: left; vertical-align: top; white-space: nowrap; }
thead th { border-bottom: 1px solid var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal;
  min-width: 3.5rem; max-width: 13rem; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--paper); }
.number { text-align: right; }
td code { white-space: nowrap; }
details { margin: 1rem 0; border-left: 2px solid var(--rule); padding-left: 1rem; }
summary { cursor: pointer; font-size: 0.92rem; padding: 0.2rem 0; }
:focus-visible { outline: 2px solid var(--above); outline-offset: 2px; }
svg { display: block; overflow: visible; }
svg svg { overflow: hidden; }
svg text { fill: var(--ink); font-size: 12.5px; font-variant-numeric: tabular-nums; }
svg .tick { fill: var(--soft); font-size: 11px; }
.name { margin: 0 0 0.3rem; font-weight: 600; }
.rule { stroke: var(--rule); } .zero { stroke: var(--soft); stroke-width: 1.5; }
.forest g line { stroke-width: 2.5; stroke-linecap: round; } .forest g circle { stroke-width: 2; }
.above line, .above circle { stroke: var(--above); fill: var(--above); }
.below line, .below circle { stroke: var(--below); fill: var(--below); }
.inside line, .inside circle, .not circle { stroke: var(--inside); fill: var(--paper); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); gap: 1.2rem;
  align-items: end; }
.panel { width: 100%; max-width: 20rem; }
.panel g * { stroke-width: 1.5; } .panel g polyline { fill: none; }
.series-0 * { stroke: var(--above); fill: var(--above); }
.series-1 * { stroke: var(--below); fill: var(--paper); } .series-1 polyline { stroke-dasharray: 4 3; }
.key { margin-left: 0.9rem; white-space: nowrap; color: var(--ink); }
.key::before { content: "● "; color: var(--above); } .key.series-1::before { content: "○ "; color: var(--below); }
@media (max-width: 56rem) { .ends { display: none; } }
@media (max-width: 40rem) { main { padding-top: 1.8rem; } details { padding-left: 0.7rem; }
  tbody th { white-space: normal; min-width: 6rem; max-width: 9rem; } ul { padding-left: 1.2rem; }
  td:not(.number) { white-space: normal; min-width: 8rem; }
  svg text { font-size: 11.5px; } svg .tick { font-size: 10px; } }
@media print { main { max-width: none; } .scroll { overflow: visible; } }
"""
