"""The README's picture shows what the demo prints."""
import re

import pytest

from llmlite.__main__ import main
from tests import VENDORED, picture
from tests.test_readme import README

pytestmark = pytest.mark.skipif(VENDORED, reason="the picture is of the command line")


def steady(lines):
    """Lines without what differs from run to run: the time at their start, the port."""
    return [re.sub(r"(?<=127\.0\.0\.1:)\d+", "PORT", re.sub(r"^ *\d+\.\d\d s  ", "TIME  ", line))
            for line in lines if line]


def test_the_picture_is_the_demos(capsys):
    """Its lines are those of a demo now; when this fails: python -m tests.picture"""
    with open(picture.PATH, encoding="utf-8") as file:
        svg = file.read()
    assert main(["demo"]) == 0
    assert steady(picture.shown(svg)) == steady([picture.PROMPT, *capsys.readouterr().out.splitlines()])
    assert "\n.. image:: tests/demo.svg\n" in README


def test_what_is_drawn_is_read_again():
    """Each line stands in the picture as it is, whatever is in it, and each speaker has a colour."""
    lines = [picture.PROMPT, ' 0.01 s  server  <200> & "more"', "", "  plain"]
    svg = picture.drawn(lines)
    assert picture.shown(svg) == [line for line in lines if line]
    assert all(colour in svg for colour in (picture.COLOURS["server"], "#ffffff", "#c9d1d9"))
