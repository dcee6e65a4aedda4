"""Loopback relays for tests: what stands between a client and a `testing.Server` (a Unix socket, proxies)."""
import contextlib
import os
import select
import shutil
import socket
import struct
import tempfile
import threading
import time


class Relay:
    """Passes bytes both ways between those who connect to it and `target`; a context manager that leaves no thread."""

    def __init__(self, target=None):
        self.target = target
        self.connections = 0
        self._sockets, self._threads, self._lock = set(), [], threading.Lock()
        self._closed = False

    def listen(self):
        return socket.create_server(("127.0.0.1", 0))

    def __enter__(self):
        self._listener = self.listen()
        self.address = self._listener.getsockname()
        self._start(self._accept)
        return self

    def __exit__(self, *exc):
        with self._lock:
            self._closed = True
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError), socket.socket(self._listener.family) as caller:
            caller.connect(self.address)  # wakes accept()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _start(self, function, *args):
        thread = threading.Thread(target=function, args=args, name="relay", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            sock = self._listener.accept()[0]
            if self._closed or not self._keep(sock):
                sock.close()
                return
            self.connections += 1
            self._start(self._serve, sock)

    def _keep(self, sock):
        with self._lock:
            self._sockets.add(sock)
            return not self._closed

    def _serve(self, near):
        far = None
        try:
            far = self.reach(near)
            if far is not None and self._keep(far):
                self._pass_on(near, far)
        except OSError:
            pass
        finally:
            with self._lock:
                for sock in filter(None, (near, far)):
                    self._sockets.discard(sock)
                    sock.close()

    def reach(self, near):
        """The connection to the far end, or None to leave `near`."""
        return socket.create_connection(self.target)

    def _pass_on(self, near, far):
        others = {near: far, far: near}
        while True:
            for sock in select.select(list(others), [], [])[0]:
                data = sock.recv(65536)
                if not data:
                    return
                others[sock].sendall(data)


class Unix(Relay):
    """A Unix socket at `path` in front of a port."""

    def listen(self):
        self._folder = tempfile.mkdtemp(prefix="relay")  # not tmp_path: a socket's path holds 107 characters at most
        self.path = os.path.join(self._folder, "socket")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        return listener

    def __exit__(self, *exc):
        super().__exit__(*exc)
        shutil.rmtree(self._folder)

    @property
    def url(self):
        """The base URL that libraries for Unix sockets take."""
        return "http+unix://" + self.path.replace("/", "%2F") + "/v1"


class Secure(Relay):
    """A proxy that is spoken to over TLS, and does CONNECT."""

    def __init__(self, context):
        super().__init__()
        self.context = context

    @property
    def url(self):
        return f"https://127.0.0.1:{self.address[1]}"

    def _serve(self, near):
        with contextlib.suppress(OSError):
            near = self.context.wrap_socket(near, server_side=True)
            self._keep(near)
        super()._serve(near)

    def reach(self, near):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += near.recv(1) or b"\r\n\r\n"
        host, port = head.split(b" ")[1].rsplit(b":", 1)
        far = socket.create_connection((host.decode(), int(port)))
        near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return far


class Socks(Relay):
    """A SOCKS5 proxy: `gap` seconds before each byte it says, `silent` for ever, or `refusing` with a code of RFC 1928.

    With a `login`, (user, password), it asks for that one.  `hosts` are the names it was asked for.
    """

    def __init__(self, gap=0.0, silent=False, refusing=0, login=None, target=None):
        super().__init__(target)
        self.gap, self.silent, self.refusing, self.login = gap, silent, refusing, login
        self.hosts = []

    @property
    def url(self):
        return f"socks5h://127.0.0.1:{self.address[1]}"

    def reach(self, near):
        if self.silent:
            return near.recv(1) and self._wait(near)
        methods = self._exactly(near, self._exactly(near, 2)[1])
        wanted = 0 if self.login is None else 2
        self._say(near, bytes((5, wanted if wanted in methods else 255)))
        if wanted not in methods or (self.login and not self._knows(near)):
            return None
        host, port = self._asked(near)
        self.hosts.append(host)
        if self.refusing:
            self._say(near, bytes((5, self.refusing, 0, 1)) + bytes(6))
            return None
        far = socket.create_connection(self.target or (host, port))
        try:
            self._say(near, bytes((5, 0, 0, 1)) + bytes(6))
        except OSError:
            far.close()
            raise
        return far

    def _wait(self, near):
        while near.recv(4096):
            pass

    def _knows(self, near):
        user = self._exactly(near, self._exactly(near, 2)[1])
        password = self._exactly(near, self._exactly(near, 1)[0])
        known = (user.decode(), password.decode()) == self.login
        self._say(near, bytes((1, not known)))
        return known

    def _asked(self, near):
        kind = self._exactly(near, 4)[3]
        host = self._exactly(near, 4 if kind == 1 else self._exactly(near, 1)[0])
        return socket.inet_ntoa(host) if kind == 1 else host.decode(), struct.unpack(">H", self._exactly(near, 2))[0]

    def _say(self, near, data):
        for number in range(len(data)):
            time.sleep(self.gap)
            near.sendall(data[number:number + 1])

    def _exactly(self, near, count):
        data = b""
        while len(data) < count:
            piece = near.recv(count - len(data))
            if not piece:
                raise ConnectionAbortedError("the client left")
            data += piece
        return data
