"""The drawn changes that change nothing, by how they are described or how that begins, each with its reason."""
EQUIVALENT = {
    # What is never looked at.
    '_Reconnect.increment | attempt.call.sleep(min(delay, attempt.left(math.inf) or 0.0)) | 0.0 -> 1.0':
        "left() of a limit is a number above zero or raises; the rest is for the type checker",
    "_Dialect | voice = \"\"  # the name under which its own words ride in a message of the history | \"\" -> '~'":
        "a dialect without a voice keeps no words of its own, and finds none under any name",
    "_Idle.get | def get(self, block: bool = True, timeout: Optional[float] = None) -> Any: | None -> True":
        "it waits for none, whatever it is told",
    "_Pool.idle | if connection is not None:  # which stands for one that nobody has opened yet | connection is not "
    "None -> True": "where the pool gives nothing urllib3 makes a connection as well",
    '_SOCKSConnection._named | options = getattr(self, "_socks_options", {"proxy_host": "", "proxy_port": 0}) | 0 -> 1':
        "a port of no host",
    "_spread | start = text.find(word, at, at + slack + len(word)) if word else -1 | 1 -> 2": "any number below zero",
    # What only saves time: the general way does the same.
    "_Call.quoted | return _quoted(self.mask().of(text, room=_MAX_MESSAGE)) | , room=_MAX_MESSAGE -> ":
        "its first words alone are shown",
    "_EventDecoder.decode | if line[:6] == b\"data: \" and not data: | b\"data: \" -> b'data: ~'":
        "the usual line, read in fewer steps",
    "module | b\"message\", b\"message_start\", ": "the usual events, read in fewer steps",
    "module | b\"content_block_stop\", b\"message_delta\", b\"message_stop\"))":
        "the usual events, read in fewer steps",
    "_Mask.of | return value if self._hide is None and room == math.inf else self._of(value, 0) | self._hide is None "
    "and room == math.inf -> False": "what hides nothing copies what it is given",
}
