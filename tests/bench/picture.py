"""A picture of outages: a panel for each fault, a bar for each tool, on a logarithmic scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, WIDTH = 290, 90, 900
ROW, TITLE = 20, 30
LEAST, MOST = 10.0, 200_000.0
"""Milliseconds at the ends of the scale."""

TICKS = {10: "10 ms", 100: "100 ms", 1_000: "1 s", 10_000: "10 s", 100_000: "100 s"}
OURS, THEIRS = "#0b7a75", "#8a8f98"


@dataclass(frozen=True)
class Bar:
    says: str
    median: float
    worst: float
    unended: bool
    ours: bool


def at(value: float) -> float:
    inside = min(max(value, LEAST), MOST)
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(inside / LEAST) / math.log(MOST / LEAST)


def in_words(value: float) -> str:
    return f"{value / 1000:.3g} s" if value >= 1000 else f"{value:.0f} ms"


def draw(title: str, panels: Mapping[str, Sequence[Bar]]) -> str:
    height = 50 + sum(TITLE + ROW * len(bars) for bars in panels.values()) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="28" font-size="16" font-weight="bold">{escape(title)}</text>',
    ]
    for tick, words in TICKS.items():
        x = at(tick)
        parts.append(f'<line x1="{x:.1f}" y1="44" x2="{x:.1f}" y2="{height - 26}" stroke="#e3e5e8"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle" fill="#555b66">{words}</text>')
    top = 50
    for name, bars in panels.items():
        parts.append(f'<text x="16" y="{top + 18}" font-weight="bold">{escape(name)}</text>')
        top += TITLE
        for bar in bars:
            parts += _bar(bar, top)
            top += ROW
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(bar: Bar, top: float) -> list[str]:
    """To the median; a line goes on to the worst; a dashed end when only mending ended it."""
    color, middle = (OURS if bar.ours else THEIRS), top + ROW / 2
    ends, worst = at(bar.median), at(bar.worst)
    words = ("> " if bar.unended else "") + ("none" if bar.median <= 0 else in_words(bar.median))
    dashes = ' stroke-dasharray="4 2"' if bar.unended else ""
    return [
        f'<text x="{LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.says)}</text>',
        f'<rect x="{LEFT}" y="{top + 4}" width="{max(1.0, ends - LEFT):.1f}" height="{ROW - 8}" fill="{color}" '
        f'fill-opacity="{0.4 if bar.unended else 1}" stroke="{color}"{dashes}/>',
        f'<line x1="{ends:.1f}" y1="{middle:.1f}" x2="{worst:.1f}" y2="{middle:.1f}" stroke="{color}" stroke-width="2"/>',
        f'<text x="{max(ends, worst) + 6:.1f}" y="{middle + 4:.1f}" fill="#333a45">{escape(words)}</text>',
    ]
