"""A chart of ratios: how far each is beyond its goal, on a logarithmic scale, as SVG."""

import math
from collections.abc import Sequence
from html import escape

WIDTH, ROW, LEFT, RIGHT = 860, 26, 330, 130
SPAN = math.log(10)  # the axis reaches from a tenth of the goal to ten times the goal


def draw(rows: Sequence[tuple[str, float, float, bool]]) -> str:
    """Return an SVG; each row is (text, ratio, goal, more is better)."""
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    half = (WIDTH - LEFT - RIGHT) / 2
    height = ROW * (len(rows) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">',
        "<style>text { font: 13px sans-serif; fill: #222 }</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{middle}" y="{ROW - 8}" text-anchor="middle">worse | better</text>',
    ]
    for place, (text, ratio, goal, more) in enumerate(rows, 1):
        beyond = math.log(ratio / goal if more else goal / ratio)
        width = max(1.0, min(1.0, abs(beyond) / SPAN) * half)
        x = middle if beyond >= 0 else middle - width
        color = "#2b7a4b" if beyond >= 0 else "#b5452c"
        y = place * ROW
        told = f"{ratio:.2f} ({'&gt;=' if more else '&lt;='} {goal:g})"
        bar = f'x="{x:.1f}" y="{y + 5}" width="{width:.1f}" height="{ROW - 10}"'
        parts += [
            f'<text x="8" y="{y + 17}">{escape(text)}</text>',
            f'<rect {bar} fill="{color}"/>',
            f'<text x="{WIDTH - RIGHT + 8}" y="{y + 17}">{told}</text>',
        ]
    line = f'<line x1="{middle}" y1="{ROW}" x2="{middle}" y2="{height - ROW}" stroke="#222"/>'
    return "\n".join([*parts, line, "</svg>\n"])
