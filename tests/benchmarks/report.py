"""What was measured, as a Markdown table and as plots in SVG, written by hand."""
from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

SCALE = {"s": 1, "ms": 1e3, "us": 1e6}
WIDTH, LEFT, LINE = 860, 250, 20  # pixels
INK = {"llmlite": "#c0392b", "other": "#7f8c8d", "bar": "#2980b9"}


class Row(NamedTuple):
    """A line of the table; the numbers are None where the measure could not be taken."""

    measure: str
    label: str
    unit: str
    bar: Optional[float] = None
    more: bool = False  # a ratio above the bar is the good one
    value: Optional[float] = None  # seconds
    ratio: Optional[float] = None
    low: float = 0.0
    high: float = 0.0
    note: str = ""

    def verdict(self) -> str:
        """Beside which bar the ratio stands, and on which side."""
        if self.bar is None:
            return ""
        sign = "at least" if self.more else "at most"
        if self.ratio is None:
            return f"{sign} {self.bar:.2f}"
        met = self.ratio >= self.bar if self.more else self.ratio <= self.bar
        return f"{sign} {self.bar:.2f}: {'met' if met else 'MISSED'}"

    def cells(self) -> List[str]:
        """The row as the table shows it."""
        if self.value is None or self.ratio is None:
            return [self.measure, self.label, "n/a", "", "", self.verdict(), ""]
        value = self.value * SCALE[self.unit.split(" ")[0]]
        return [self.measure, self.label, f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {self.unit}",
                f"{self.ratio:.3f}", f"{self.low:.2f} to {self.high:.2f}", self.verdict(), self.note]


def table(rows: List[Row]) -> str:
    """The Markdown table."""
    head = ["measure", "client", "median", "ratio", "middle half", "bar", "note"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def dots(measure: str, rows: List[Row]) -> str:
    """Each client's ratio as a dot on a log scale, the middle half of the rounds as a line, its bar as a mark."""
    shown = [row for row in rows if row.low > 0]
    ends = [value for row in shown for value in (row.low, row.high, row.bar or 1.0, 1.0)]
    least, most = math.log(min(ends) / 1.1), math.log(max(ends) * 1.1)

    def x(value: float) -> float:
        return LEFT + (math.log(value) - least) / (most - least) * (WIDTH - LEFT - 70)

    height = LINE * (len(shown) + 3)
    parts = [f'<text x="8" y="{LINE}" font-weight="bold">{escape(measure)}: ratio, log scale</text>']
    for tick in (value for power in range(-2, 4) for value in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)):
        if least <= math.log(tick) <= most:
            colour = "#333" if tick == 1 else "#ddd"
            parts.append(f'<path d="M{x(tick):.1f} {LINE * 1.5}V{height - LINE}" stroke="{colour}"/>'
                         f'<text x="{x(tick):.1f}" y="{height - 5}" text-anchor="middle">{tick:g}</text>')
    for at, row in enumerate(shown):
        y = LINE * (at + 2.2)
        ink = INK["llmlite" if "llmlite" in row.label else "other"]
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(row.label)}</text>'
                     f'<path d="M{x(row.low):.1f} {y}H{x(row.high):.1f}" stroke="{ink}" stroke-width="3"/>'
                     f'<circle cx="{x(row.ratio or 1):.1f}" cy="{y}" r="5" fill="{ink}"/>'
                     f'<text x="{x(row.high) + 9:.1f}" y="{y + 4}" fill="{ink}">{row.ratio:.2f}</text>')
        if row.bar:
            parts.append(f'<path d="M{x(row.bar):.1f} {y - 9}v18" stroke="{INK["bar"]}" stroke-width="2"/>')
    return _svg(height, parts)


def _svg(height: float, parts: List[str]) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n')


def write(out: Path, about: List[str], rows: List[Row]) -> str:
    """Write results.md and a plot for each measure into the folder; returns the table."""
    by_measure: Dict[str, List[Row]] = {}
    for row in rows:
        by_measure.setdefault(row.measure, []).append(row)
    pictures = []
    for measure, group in by_measure.items():
        if len([row for row in group if row.low > 0]) > 1:
            name = "".join(letter if letter.isalnum() else "-" for letter in measure).strip("-") + ".svg"
            (out / name).write_text(dots(measure, group), encoding="utf-8")
            pictures.append(f"![{measure}]({name})")
    text = "\n\n".join(["# Benchmarks", *about, table(rows)])
    (out / "results.md").write_text("\n\n".join([text, *pictures]) + "\n", encoding="utf-8")
    return text
