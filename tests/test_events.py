"""Bytes to server-sent events, with no socket: the rules of WHATWG HTML 9.2.6, and what llmlite adds to them."""
import re
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import llmlite

client = sys.modules[llmlite.Client.__module__]

BOM = b"\xef\xbb\xbf"


def events(*pieces):
    """The (name, data) pairs that packets of bytes decode to."""
    return [(name, data) for name, data, _ in client._EventDecoder().decode(pieces)]


def datas(*pieces):
    return [data for _, data in events(*pieces)]


def cuts(stream):
    """The stream cut in two at every offset."""
    return [(stream[:at], stream[at:]) for at in range(len(stream) + 1)]


def reference(stream):
    """The standard, written down a second time: whole bytes in, (name, data) out; the last event also without its
    blank line, as llmlite hands it on."""
    found, name, data = [], b"", []
    lines = re.split(b"\r\n|\r|\n", stream[3:] if stream.startswith(BOM) else stream)
    for line in lines + [b""]:
        field, colon, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif not line:
            found += [(name, b"\n".join(data))] if data else []
            name, data = b"", []
    return found


@pytest.mark.parametrize("stream, wanted", [
    (b"data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
    (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
     [b"first event", b"second event", b" third event"]),
    (b"data\n\ndata\ndata\n\n", [b"", b"\n"]),
    (b"data:test\n\ndata: test\n\n", [b"test", b"test"]),
], ids=["stock", "comment-id-space", "empty", "one-space"])
def test_the_examples_of_the_standard(stream, wanted):
    """The examples that WHATWG HTML 9.2.6 gives decode to what it says of them."""
    assert datas(stream) == wanted


@pytest.mark.parametrize("stream, wanted", [
    (b"event: add\ndata: 1\n\n", [(b"add", b"1")]),
    (b"event: add\ndata: 1\n\ndata: 2\n\n", [(b"add", b"1"), (b"", b"2")]),
    (b"event: lost\n\ndata: 1\n\n", [(b"", b"1")]),
    (b"event: one\nevent: two\ndata: 1\n\n", [(b"two", b"1")]),
    (b"event\ndata: 1\n\n", [(b"", b"1")]),
], ids=["named", "reset", "alone", "last", "no-colon"])
def test_a_name_holds_for_one_event(stream, wanted):
    """`event:` names the event it stands in and no other; without data it dispatches nothing."""
    assert events(stream) == wanted


@pytest.mark.parametrize("stream", [
    b"id: 1\n\n", b"retry: 10\n\n", b"event: ping\n\n", b": ping\n\n", b":\n\n", b"id\n\n", b"retry: x\n\n",
    b"\n\n\n", b"other: field\n\n", b"Data: 1\n\n", b"nonsense\n\n", b" data: 1\n\n", b"", BOM,
])
def test_what_holds_no_data_is_no_event(stream):
    """Comments, ids, retries, names, unknown fields and blank lines dispatch nothing."""
    assert events(stream) == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_every_line_end_wherever_it_is_torn(end):
    """LF, CRLF and CR end a line, and cutting the stream at any byte makes no phantom blank line."""
    stream = end.join([b"event: a", b"data: 1", b"data: 2", b"", b": c", b"event: b", b"data: 3", b"", b""])
    for pieces in cuts(stream):
        assert events(*pieces) == [(b"a", b"1\n2"), (b"b", b"3")], pieces


def test_line_ends_may_be_mixed():
    """CR LF is one line end, LF CR two: in one stream each counts for itself."""
    assert datas(b"data: 1\r\ndata: 2\ndata: 3\r\rdata: 4\n\r") == [b"1\n2\n3", b"4"]


def test_a_byte_order_mark_is_dropped_once_however_torn():
    """A BOM opens the stream and may come in pieces; a second one, or one further in, is no BOM."""
    for pieces in cuts(BOM + b"data: 1\n\ndata: 2\n\n"):
        assert datas(*pieces) == [b"1", b"2"], pieces
    assert datas(BOM + BOM + b"data: 1\n\ndata: 2\n\n") == [b"2"]
    assert datas(b"data: 1\n\n" + BOM + b"data: 2\n\n") == [b"1"]
    assert datas(b"data: " + BOM + b"1\n\n") == [BOM + b"1"]


def test_only_the_three_line_ends_of_the_standard_end_a_line():
    """U+2028, U+2029, U+0085, form feed and the rest that str.splitlines() splits at stay inside the data."""
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\x00j".encode()
    assert datas(b"data: " + odd + b"\n\n") == [odd]


def test_characters_may_be_torn_anywhere():
    """UTF-8 of two, three and four bytes is whole again wherever the packets cut it."""
    said = "h\u00e9 \u20ac \U0001f600 \u2028 \u65e5\u672c"
    stream = b"data: " + said.encode() + b"\n\n"
    for pieces in cuts(stream):
        assert datas(*pieces) == [said.encode()], pieces
    assert datas(*(stream[at:at + 1] for at in range(len(stream)))) == [said.encode()]


@pytest.mark.parametrize("tail", [b"", b"\n", b"\r", b"\r\n"], ids=["none", "LF", "CR", "CRLF"])
def test_the_last_event_needs_no_blank_line(tail):
    """An event that the end of the stream cuts off is handed on all the same, and the decoder says so."""
    found = client._EventDecoder().decode([b"data: 1\n\nevent: x\ndata: 2" + tail])
    assert list(found) == [(b"", b"1", False), (b"x", b"2", True)]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"], ids=["LF", "CRLF", "CR"])
def test_an_event_is_handed_on_before_the_next_bytes_are_asked_for(end):
    """The blank line's last byte dispatches: nothing waits for what may come minutes later."""
    asked = []

    def packets():
        for number in range(3):
            asked.append(number)
            yield b"data: %d" % number + end

    found = client._EventDecoder().decode(packets())
    for number in range(3):
        assert next(found) == (b"", b"%d" % number, False)
        assert asked[-1] == number


@pytest.mark.parametrize("stream, wanted", [
    (b'{"error": 1}\n', [b'{"error": 1}']),
    (b'{"error": 1}', [b'{"error": 1}']),
    (b'data: 1\n\n{"error":\n {"a": "b"}\n}\ndata: 2\n\n', [b"1", b'{"error":\n {"a": "b"}\n}', b"2"]),
    (b'[{\n"error": {}\n}]', [b'[{\n"error": {}\n}]']),
    (b'{"a": 1}\n{"b": 2}\n', [b'{"a": 1}', b'{"b": 2}']),
], ids=["line", "no-newline", "lines", "list", "two"])
def test_bare_json_between_events_is_told_apart(stream, wanted):
    """JSON where a field should stand is handed on when it is whole, under a name that no plain event has."""
    for pieces in cuts(stream):
        found = events(*pieces)
        assert [data for _, data in found] == wanted, pieces
        assert all((name != b"") == data.startswith((b"{", b"[")) for name, data in found)


def test_bare_lines_that_are_no_json_are_kept_for_the_error_message():
    """The start of what is no event stream at all can be shown."""
    decoder = client._EventDecoder()
    assert list(decoder.decode([b"<html>\n<body>", b"Bad gateway" + b"!" * 100000])) == []
    assert decoder.stray.startswith(b"<html><body>Bad gateway!")
    assert len(decoder.stray) < 10000


LINES = st.one_of(
    st.sampled_from([b"", b"", b"data", b"data:", b"event: error", b"id: 1", b"retry: 1", b": ping", b":", b"x: y"]),
    st.text("a: \u00e9\u2028\U0001f600\x85", max_size=6).map(lambda text: b"data:" + text.encode()),
    st.text("ab:", max_size=4).map(lambda text: b"event:" + text.encode()),
    st.binary(max_size=5).map(lambda raw: b"data: " + raw.translate(None, b"{[")),  # "\r{" would be a line of bare JSON
)
STREAMS = st.builds(
    lambda bom, lines, tail: (BOM if bom else b"") + b"".join(line + end for line, end in lines) + tail,
    st.booleans(), st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12),
    st.sampled_from([b"", b"data: tail", b"event: tail"]))


@st.composite
def torn(draw, streams):
    stream = draw(streams)
    where = sorted(draw(st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=8)))  # no packet is empty
    return stream, [stream[start:end] for start, end in zip([0, *where], [*where, len(stream)])]


@settings(max_examples=300, deadline=None)
@given(torn(STREAMS))
@example((b"data: 1\r\n\r\n", [b"data: 1\r", b"\n\r", b"\n"]))
def test_any_stream_in_any_packets_is_what_the_standard_says(case):
    """Whatever the lines, their ends and the packets' bounds: the events are those of a naive reading of the whole."""
    stream, pieces = case
    assert events(*pieces) == reference(stream)


BARE = st.sampled_from([b'{"error": {"code": 429}}', b'{"error":', b'{"code": 1}', b"}", b"[", b"]", b"<html>"])
MIXED = st.lists(st.tuples(st.one_of(LINES, BARE), st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12).map(
    lambda lines: b"".join(line + end for line, end in lines))


@settings(max_examples=200, deadline=None)
@given(torn(MIXED))
def test_packets_do_not_matter_to_bare_json_either(case):
    """With JSON and rubbish between the events, too, only the bytes count, not how they are cut."""
    stream, pieces = case
    assert events(*pieces) == events(stream)
