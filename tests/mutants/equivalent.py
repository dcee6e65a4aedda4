"""The drawn changes that change nothing, by how they are described or how that begins, each with its reason."""
EQUIVALENT = {
    # A boundary that a clock would have to meet to the last digit.
    "Client._ask | late = call.deadline - _now() <= _EPSILON | <= -> <": "a tick of the clock",
    # What is never looked at.
    "_Flow._decoded | chunk, end, text = _UNSET, 0, \"\" | \"\" -> '~'":
        "where nothing was decoded no text is asked for",
    '_Reconnect.increment | time.sleep(min(delay, attempt.left(math.inf) or 0.0)) | 0.0 -> 1.0':
        "left() of a limit is a number above zero or raises; the rest is for the type checker",
    '_decide | return error, 0.0 | 0.0 -> 1.0': "nobody waits after a final error",
    '_Call.__init__ | self.key = "" | self.key = "" -> pass': "the key is set by the one who makes the call, at once",
    "_Dialect | voice = \"\"  # the name under which its own words ride in a message of the history | \"\" -> '~'":
        "a dialect without a voice keeps no words of its own, and finds none under any name",
    "_Anthropic._delta | name, key = _ANTHROPIC_DELTAS.get(kind if isinstance(kind, str) else \"\", (\"\", \"\")) | "
    "\"\" -> '~'": "no delta has a field of either name",
    # What only saves time: the general way does the same.
    "_EventDecoder.decode | if line[:6] == b\"data: \" and not data: | b\"data: \" -> b'data: ~'":
        "the usual line, read in fewer steps",
    "module | _PLAIN_NAMES = frozenset((b\"message\", ": "the usual events, read in fewer steps",
    "module | b\"content_block_stop\", b\"message_delta\", b\"message_stop\"))":
        "the usual events, read in fewer steps",
    "_piece_for | new = not kept or (len(kept) == index and kept[-1].get(\"index\") == len(kept) - 1)  # the u":
        "what the search would come to",
    '_Bounded.send | data, attempt.head = attempt.head + data if attempt.head else data, b"" | attempt.head -> True':
        "to add no bytes in front copies a large body",
    "_Adapter.get_connection_with_tls_context | if asked != last or pool.pool is None or not _is_straight():  # None: "
    "closed | asked != last or pool.pool is None or not _is_straight() -> True": "the pool found last, kept at hand",
    "_Mask.of | return value if self._hide is None and room == math.inf else self._of(value, 0) | self._hide is None "
    "and room == math.inf -> False": "what hides nothing copies what it is given",
    "_Flow.text | return self.call.dialect.text(self.body) if self.done is None else self.done.text | self.done is "
    "None -> True": "the text of the body is that of the reply made of it",
}
