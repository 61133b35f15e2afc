"""Drawing SVG: a sheet of paper, and panels with axes on it. Dark on white, so that dark viewers show it, too."""
from xml.sax.saxutils import escape

import scales

INK = "#222222"
FAINT = "#666666"
GRID = "#dddddd"
FONT = 12
TITLE_FONT = 15
# Okabe and Ito's colors, which most people can tell apart; each series has one and a marker.
STYLES = {
    "stagefs": ("#0072b2", "circle"), "ext4": ("#d55e00", "square"), "null": ("#009e73", "diamond"),
    "xfs": ("#cc79a7", "triangle"), "fuse2fs": ("#8c6d00", "square"), "ntfs3g": ("#56a0d0", "diamond"),
    "create": ("#d55e00", "square"), "lookup": ("#009e73", "diamond"), "read": ("#0072b2", "circle"),
    "write": ("#cc79a7", "triangle"), "memory": ("#222222", "circle"),
    "create_spread": ("#e6a000", "square"), "lookup_spread": ("#7a5fc0", "diamond"),
}


def text_width(text, size=FONT):
    """An estimate on the safe side: sans-serif letters are a little more than half as wide as high."""
    return 0.58 * size * len(text)


class Sheet:
    """White paper with a title above and a note below."""

    def __init__(self, width, height, title, note):
        self.width, self.height = width, height
        self.parts = []
        self.text(16, 26, title, size=TITLE_FONT, weight="bold")
        self.text(16, height - 12, note, size=11, color=FAINT)

    def add(self, part):
        self.parts.append(part)

    def text(self, x, y, text, anchor="start", size=FONT, color=INK, weight="normal", turned=False):
        turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}" '
                 f'font-weight="{weight}"{turn}>{escape(text)}</text>')

    def line(self, x1, y1, x2, y2, color=INK, width=1.0, dash=""):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.add(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
                 f'stroke-width="{width}"{dashes}/>')

    def box(self, x, y, width, height, color):
        self.add(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>')

    def marker(self, x, y, name, radius=4.0):
        color, shape = STYLES[name]
        if shape == "circle":
            self.add(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{color}"/>')
            return
        corners = {"square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
                   "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
                   "triangle": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)]}[shape]
        points = " ".join(f"{x + radius * dx:.1f},{y + radius * dy:.1f}" for dx, dy in corners)
        self.add(f'<polygon points="{points}" fill="{color}"/>')

    def legend(self, x, y, names):
        """One line: a marker and a name each."""
        for name in names:
            self.line(x, y - 4, x + 26, y - 4, STYLES[name][0], 2)
            self.marker(x + 13, y - 4, name)
            self.text(x + 32, y, name)
            x += 32 + text_width(name) + 20

    def save(self, path):
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
                f'viewBox="0 0 {self.width} {self.height}" font-family="DejaVu Sans, Verdana, Helvetica, sans-serif">')
        white = f'<rect width="{self.width}" height="{self.height}" fill="#ffffff"/>'
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join([head, white] + self.parts + ["</svg>"]) + "\n")


class Panel:
    """A rectangle with two axes: left, top, right and bottom are its edges on the sheet."""

    def __init__(self, sheet, edges, x_range, y_range, x_form, y_form):
        self.sheet = sheet
        self.left, self.top, self.right, self.bottom = edges
        self.x = scales.Scale(*x_range, self.left, self.right, x_form)
        self.y = scales.Scale(*y_range, self.bottom, self.top, y_form)

    def title(self, text):
        self.sheet.text((self.left + self.right) / 2, self.top - 8, text, anchor="middle", weight="bold")

    def x_axis(self, ticks, label, show=scales.count_text):
        """Ticks that would touch the one before get no text."""
        free_from = float("-inf")
        for tick in ticks:
            place, text = self.x(tick), show(tick)
            self.sheet.line(place, self.top, place, self.bottom, GRID)
            half = text_width(text) / 2
            if place - half >= free_from:
                self.sheet.text(place, self.bottom + 17, text, anchor="middle")
                free_from = place + half + 4
        self.sheet.line(self.left, self.bottom, self.right, self.bottom)
        if label:
            self.sheet.text((self.left + self.right) / 2, self.bottom + 36, label, anchor="middle", color=FAINT)

    def y_axis(self, ticks, label, show=scales.count_text):
        widest = 0.0
        for tick in ticks:
            place, text = self.y(tick), show(tick)
            self.sheet.line(self.left, place, self.right, place, GRID)
            self.sheet.text(self.left - 6, place + 4, text, anchor="end")
            widest = max(widest, text_width(text))
        self.sheet.line(self.left, self.top, self.left, self.bottom)
        if label:
            self.sheet.text(self.left - 14 - widest, (self.top + self.bottom) / 2, label, anchor="middle", color=FAINT,
                            turned=True)

    def curve(self, name, points, markers=True):
        """Through (x, y) points; a y of None interrupts it."""
        parts, pen = [], "M"
        for x, y in points:
            if y is None:
                pen = "M"
                continue
            parts.append(f"{pen}{self.x(x):.1f},{self.y(y):.1f}")
            pen = "L"
        self.sheet.add(f'<path d="{" ".join(parts)}" fill="none" stroke="{STYLES[name][0]}" stroke-width="2"/>')
        if markers:
            for x, y in points:
                if y is not None:
                    self.sheet.marker(self.x(x), self.y(y), name)
