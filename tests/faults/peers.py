"""What a client can meet where no proper server is: closed ports, full queues, names that nobody has, deaf servers."""
import contextlib
import functools
import os
import select
import socket
import ssl
import struct
import threading
import time

import trustme

from tests import relays, testing

RST = struct.pack("ii", 1, 0)  # lingering for 0 s: a close that sends RST
PLAIN = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@functools.lru_cache(maxsize=None)
def authority():
    """A certificate authority that nobody trusts, as a server's TLS context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("127.0.0.1").configure_cert(context)
    return context


class Peer:
    """Something at an address; `requests` counts those it has seen, `open` the connections it still holds."""

    scheme = "http"
    requests = open = 0

    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.stop = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.stack.close()

    def start(self):
        self.listener = self.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.root = f"{self.scheme}://127.0.0.1:{self.listener.getsockname()[1]}"

    def socket(self):
        return self.stack.enter_context(socket.socket())

    def thread(self, target):
        thread = threading.Thread(target=target, name="faults:peer", daemon=True)
        thread.start()
        self.stack.callback(thread.join, 5)

    def accepted(self, seconds=5.0):
        """The connections that come, until the peer is closed."""
        end = time.monotonic() + seconds
        while not self.stop.is_set() and time.monotonic() < end:
            if select.select([self.listener], [], [], 0.02)[0]:
                connection, _ = self.listener.accept()
                with connection:
                    yield connection


class Refusing(Peer):
    """A port that is taken, and nobody listens there."""


class Nowhere(Peer):
    """A host that no name server knows (RFC 6761 section 6.4)."""

    def start(self):
        self.root = "http://nowhere.invalid"


class Late(Peer):
    """A server that begins to listen after a while, and answers one request."""

    def start(self):
        super().start()
        self.thread(self.serve)

    def serve(self):
        time.sleep(0.1)
        self.listener.listen(5)
        for connection in self.accepted():
            request = received(connection)
            self.requests += 1
            answer = testing.reply("Hello", framing="close")
            connection.sendall(b"".join(testing.wire(answer, testing.shape_of(request))[:-1]))
            return


def received(connection):
    """One whole request."""
    connection.settimeout(5)
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    request = testing.Request(head + b"\r\n\r\n")
    while len(body) < int(request.headers["content-length"]):
        body += connection.recv(65536)
    request.body = body
    return request


class Full(Peer):
    """A listener whose queue is full: connects are not answered at all."""

    def start(self):
        super().start()
        self.listener.listen(0)
        for _ in range(4):
            waiting = self.socket()
            waiting.setblocking(False)
            waiting.connect_ex(self.listener.getsockname())
        time.sleep(0.01)


class Resetting(Peer):
    """Resets each connection before it has read a byte."""

    def start(self):
        super().start()
        self.listener.listen(5)
        self.thread(self.serve)

    def serve(self):
        for connection in self.accepted():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)


class Deaf(Peer):
    """Takes a connection, reads nothing, answers nothing."""

    def start(self):
        super().start()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.listener.listen(5)
        self.thread(self.serve)
        self.held = []

    def serve(self):
        for connection in self.accepted():
            self.held.append(connection.dup())

    @property
    def open(self):
        """How many of the connections have not come to their end, once all that was sent is read."""
        return sum(not ended(connection) for connection in self.held)

    def __exit__(self, *exc):
        super().__exit__(*exc)
        for connection in self.held:
            connection.close()


def ended(connection):
    connection.settimeout(0.2)
    try:
        while connection.recv(1 << 20):
            pass
    except socket.timeout:
        return False
    except OSError:  # reset: gone as well
        pass
    return True


class Plain(Peer):
    """Speaks HTTP to whoever begins with TLS, as web servers do on a port of their own."""

    scheme = "https"

    def start(self):
        super().start()
        self.listener.listen(5)
        self.thread(self.serve)

    def serve(self):
        for connection in self.accepted():
            connection.settimeout(10)  # a busy client reads its certificates first
            with contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(PLAIN)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)


class Scripted(Peer):
    """The scripted provider."""

    ssl_context = None

    def start(self):
        self.server = self.stack.enter_context(testing.Server(ssl_context=self.ssl_context))
        self.root = self.server.root

    @property
    def requests(self):
        return len(self.server.requests)

    @property
    def open(self):
        return self.server.open_connections


class ThroughSocks(Scripted):
    """The scripted provider, behind a SOCKS proxy that the environment names: for rows that are played among these."""

    how = {}
    lock, users, shared = threading.Lock(), 0, None

    def start(self):
        super().start()
        kind = type(self)
        with self.lock:
            if not kind.users:
                kind.shared = proxied(**self.how)
                kind.shared.__enter__()
            kind.users += 1
        self.stack.callback(self.leave)

    def leave(self):
        kind = type(self)
        with self.lock:
            kind.users -= 1
            if not kind.users:
                kind.shared.__exit__(None, None, None)


class MuteSocks(ThroughSocks):
    how = {"silent": True}


class DrippingSocks(ThroughSocks):
    how = {"gap": 0.1}


class RefusingSocks(ThroughSocks):
    how = {"refusing": 5}


@contextlib.contextmanager
def proxied(**how):
    """A SOCKS proxy that the environment names."""
    before = os.environ.get("ALL_PROXY")
    with relays.Socks(**how) as proxy:
        os.environ["ALL_PROXY"] = proxy.url
        yield
    del os.environ["ALL_PROXY"]
    if before is not None:
        os.environ["ALL_PROXY"] = before


class Untrusted(Scripted):
    """One whose certificate nobody vouches for."""

    @property
    def ssl_context(self):
        return authority()


class PlainToTLS(Untrusted):
    """One that speaks TLS, asked in plain HTTP."""

    def start(self):
        super().start()
        self.root = self.root.replace("https:", "http:")


class TLSToMute(Scripted):
    """One that waits for the end of a head that never comes, for the client speaks TLS."""

    def start(self):
        super().start()
        self.root = self.root.replace("http:", "https:")


class Elsewhere(Scripted):
    """One that redirects to a second server, which must see nothing."""

    def start(self):
        super().start()
        self.other = self.stack.enter_context(testing.Server())
        self.other.handle(lambda request: testing.reply("stolen"))


