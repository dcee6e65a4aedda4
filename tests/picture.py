"""The README's picture, tests/demo.svg, of what `llmlite demo` prints: `python -m tests.picture` makes it anew."""
import os
import subprocess
import sys
from xml.etree import ElementTree
from xml.sax.saxutils import escape

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo.svg")
COLOURS = {"ask": "#79c0ff", "server": "#ffa657", "log": "#d2a8ff", "answer": "#7ee787", "usage": "#8b949e",
           "ledger": "#8b949e"}  # by the word that says who speaks
PROMPT = "$ llmlite demo"
WIDTH, HEIGHT, EDGE = 7.3, 18, 16  # of a letter, a line and the frame, in pixels
HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">
<title>llmlite demo</title>
<style>text {{ font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre }}</style>
<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>
<circle cx="20" cy="18" r="6" fill="#ff5f56"/>
<circle cx="40" cy="18" r="6" fill="#ffbd2e"/>
<circle cx="60" cy="18" r="6" fill="#27c93f"/>
"""


def drawn(lines):
    """A terminal that shows these lines, as SVG."""
    width = round(max(map(len, lines)) * WIDTH) + 2 * EDGE
    rows = "".join(row(line, 40 + EDGE + at * HEIGHT) for at, line in enumerate(lines))
    return HEAD.format(width=width, height=40 + EDGE + len(lines) * HEIGHT) + rows + "</svg>\n"


def row(line, y):
    words = line.split()
    who = words[2] if words[1:2] == ["s"] else ""
    colour = COLOURS.get(who, "#ffffff" if line == PROMPT else "#c9d1d9")
    return f'<text x="{EDGE}" y="{y}" fill="{colour}" xml:space="preserve">{escape(line)}</text>\n' if line else ""


def shown(svg):
    """The lines that a picture shows; those that are empty are not told."""
    return [text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def main():
    ran = subprocess.run([sys.executable, "-m", "llmlite", "demo"], stdout=subprocess.PIPE, check=True)
    with open(PATH, "w", encoding="utf-8", newline="\n") as file:
        file.write(drawn([PROMPT, *ran.stdout.decode("utf-8").splitlines()]))


if __name__ == "__main__":
    main()
