"""TLS with a private authority: what is trusted, how failures read, and that streams, deadlines and close() hold."""
import contextlib
import datetime
import http.client
import inspect
import re
import select
import socket
import socketserver
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import requests
import trustme
import urllib3

from tests import llmlite, testing
from tests.beside import METER, Lateness, idle, timed, within

KEY = "sk-0123456789"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nConnection: close\r\n\r\n"
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def bundle(authority, tmp_path_factory):
    """The authority's certificate as a file."""
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def issued(authority, name, **dates):
    """A server's TLS context with a certificate for `name`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **dates).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def context(authority):
    return issued(authority, "127.0.0.1")


@pytest.fixture
def secure(context):
    """A scripted provider that speaks TLS."""
    with testing.Server(ssl_context=context) as server:
        yield server


@pytest.fixture
def trusting(secure, bundle, monkeypatch):
    """A client of `secure` that trusts it and tries once."""
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    with llmlite.Client("m", base_url=secure.url, api_key=KEY, retry=None) as client:
        yield client


def fails(client, method="chat", **options):
    """The LLMError of a call, and the seconds it took, but for what the machine itself was late."""
    with Lateness() as late, pytest.raises(llmlite.LLMError) as caught:
        reply = getattr(client, method)("hi", **options)
        list(reply)
    return caught.value, late.took - late.seconds


# ------------------------------------------------------------------------------------------------------- who is trusted


@pytest.mark.parametrize("method", ["chat", "stream"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "theirs"])
def test_unknown_authority(secure, method, own):
    """A certificate nobody vouches for is an error that says so and what to set; it is tried once, and nothing sent."""
    with requests.Session() as session:
        client = llmlite.Client("m", base_url=secure.url, api_key=KEY, session=None if own else session)
        error, _ = fails(client, method)
    assert type(error) is llmlite.APIConnectionError
    assert "certificate" in str(error) and "REQUESTS_CA_BUNDLE" in str(error) and "SSL_CERT_FILE" in str(error)
    assert secure.url in str(error) and KEY not in str(error)
    assert (secure.connections, secure.requests, error.attempts, client.ledger.unknown) == (1, [], 1, 0)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "theirs"])
def test_authority_from_the_environment(secure, bundle, monkeypatch, variable, own):
    """Each of the three variables names the authorities, with a session of one's own and without."""
    monkeypatch.setenv(variable, bundle)
    secure.reply("ok")
    with requests.Session() as session:
        client = llmlite.Client("m", base_url=secure.url, session=None if own else session)
        assert client.chat("hi").text == "ok"
        client.close()


@pytest.mark.parametrize("own", [True, False], ids=["own", "theirs"])
def test_authority_that_is_named_later(secure, bundle, monkeypatch, own):
    """Who sets the variable that the error names, and tries again with the same client, is answered."""
    secure.reply("ok", times=2)
    with requests.Session() as session:
        client = llmlite.Client("m", base_url=secure.url, session=None if own else session, retry=None)
        error, _ = fails(client)
        assert "REQUESTS_CA_BUNDLE" in str(error)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        assert [client.chat("hi").text for _ in range(2)] == ["ok"] * 2
        client.close()


def test_requests_variable_beats_the_others(secure, bundle, monkeypatch, tmp_path):
    """REQUESTS_CA_BUNDLE is asked first, as requests does."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    secure.reply("ok")
    with llmlite.Client("m", base_url=secure.url) as client:
        assert client.chat("hi").text == "ok"


def test_authority_that_is_no_file(secure, monkeypatch, tmp_path):
    """A variable that names no file is an LLMError that names it; nothing is sent, and trying again cannot help."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
    client = llmlite.Client("m", base_url=secure.url, retry=llmlite.RetryPolicy(backoff=0.001))
    error, _ = fails(client)
    assert "nowhere.pem" in str(error) and not secure.requests
    assert (error.attempts, client.ledger.unknown) == (1, 0)


def test_authority_of_the_users_session(secure, bundle):
    """session.verify names the authorities."""
    secure.reply("ok")
    with requests.Session() as session:
        session.verify = bundle
        assert llmlite.Client("m", base_url=secure.url, session=session).chat("hi").text == "ok"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_users_session_may_trust_anybody(secure):
    """session.verify = False is the user's own word."""
    secure.reply("ok")
    with requests.Session() as session:
        session.verify = False
        assert llmlite.Client("m", base_url=secure.url, session=session).chat("hi").text == "ok"


def test_certificate_for_another_host(authority, bundle, monkeypatch):
    """A certificate for another name is refused, once."""
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    with testing.Server(ssl_context=issued(authority, "other.example")) as server:
        error, _ = fails(llmlite.Client("m", base_url=server.url, api_key=KEY))
        assert "certificate" in str(error) and (server.connections, server.requests) == (1, [])


DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now()
WRONG = {"host": ("other.example", {}, "for another host: check the base URL"),
         "name": ("10.9.8.7", {}, "for another host: check the base URL"),
         "expired": ("127.0.0.1", {"not_after": NOW - DAY}, "clock")}
if "not_before" in inspect.signature(trustme.CA.issue_cert).parameters:  # trustme for Python 3.8 has it not
    WRONG["future"] = ("127.0.0.1", {"not_before": NOW + DAY, "not_after": NOW + 9 * DAY}, "clock")


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("own", [True, False], ids=["own", "theirs"])
def test_the_hint_fits_what_is_wrong(authority, bundle, monkeypatch, wrong, own):
    """What no other set of authorities would mend is not blamed on them: the hint says what to look at instead."""
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    name, dates, hint = WRONG[wrong]
    with testing.Server(ssl_context=issued(authority, name, **dates)) as server, requests.Session() as session:
        with llmlite.Client("m", base_url=server.url, api_key=KEY, session=None if own else session) as client:
            error, _ = fails(client)
    assert type(error) is llmlite.APIConnectionError and "TLS certificate refused" in str(error)
    assert re.search(hint, error.hint) and "CA_BUNDLE" not in str(error)


def test_client_certificate_of_the_users_session(authority, bundle, tmp_path):
    """session.cert is shown to a server that asks for one (mTLS)."""
    context = issued(authority, "127.0.0.1")
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    mine = tmp_path / "mine.pem"
    authority.issue_cert("me@x.example").private_key_and_cert_chain_pem.write_to_path(str(mine))
    with testing.Server(ssl_context=context) as server, requests.Session() as session:
        session.verify, session.cert = bundle, str(mine)
        server.reply("ok")
        assert llmlite.Client("m", base_url=server.url, session=session).chat("hi").text == "ok"


# --------------------------------------------------------------------------------------------------- the wrong protocol


def test_tls_to_a_plain_port():
    """https to a port that speaks http says that TLS failed and what to look at; it is tried once."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        thread = threading.Thread(target=answer_in_plain, args=(listener,))
        thread.start()
        error, _ = fails(llmlite.Client("m", base_url=f"https://127.0.0.1:{listener.getsockname()[1]}/v1", api_key=KEY))
        thread.join()
    assert type(error) is llmlite.APIConnectionError
    assert "TLS failed" in str(error) and "https" in str(error) and error.attempts == 1


def answer_in_plain(listener):
    """What an http server says to a TLS greeting."""
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):  # the client leaves at once
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        connection.recv(4096)


def test_plain_to_a_tls_port(secure):
    """http to a port that speaks TLS is a connection error, with the address in it."""
    client = llmlite.Client("m", base_url=secure.url.replace("https", "http"), api_key=KEY, retry=None)
    error, _ = fails(client)
    assert isinstance(error, llmlite.APIConnectionError) and f"127.0.0.1:{secure.port}" in str(error)


def test_handshake_that_never_ends(server):
    """A server that says nothing to the TLS greeting is left at the deadline, and at the connect timeout."""
    with llmlite.Client("m", base_url=server.url.replace("http", "https"), api_key=KEY, retry=None) as client:
        with timed(0.2, 0.45):
            assert isinstance(fails(client, deadline=0.2)[0], llmlite.DeadlineExceededError)
        with timed(0.2, 0.45):
            assert isinstance(fails(client, timeout=(0.2, 60))[0], llmlite.APITimeoutError)


@pytest.mark.parametrize("owner, name", [
    (urllib3.connectionpool.HTTPSConnectionPool, "urlopen"), (urllib3.connectionpool.HTTPSConnectionPool, "_put_conn"),
    (urllib3.connection.HTTPSConnection, "putrequest"), (urllib3.connection.HTTPSConnection, "endheaders"),
    (http.client.HTTPConnection, "_send_output")], ids=lambda value: value if isinstance(value, str) else "")
def test_wrapper_of_what_is_for_tls_sees_each_request(secure, trusting, owner, name):
    """Whoever wraps urllib3's classes for TLS, at any time, is not passed by."""
    secure.reply("ok", times=3)
    trusting.chat("hi")
    original, seen = getattr(owner, name), []

    def seeing(*args, **options):
        seen.append(name)
        return original(*args, **options)

    with mock.patch.object(owner, name, seeing):
        trusting.chat("hi")
        trusting.chat("hi")
    assert len(seen) == 2


# --------------------------------------------------------------------------------------- streams, deadlines and close()


@pytest.mark.parametrize("framing", ["chunked", "close", "gzip"])
def test_streams_are_prompt(secure, trusting, framing):
    """Over TLS too every event is handed on the moment its bytes are here."""
    secure.stream(["a", "b", "c"], gap=0.1, framing=framing)
    arrived = []
    with trusting.stream("hi") as stream:
        for text in stream:
            arrived.append((text, time.monotonic()))
    sent = [at for at, _ in secure.requests[0].sent]
    assert [text for text, _ in arrived] == ["a", "b", "c"]
    late = [at - sent[number + 2] for number, (_, at) in enumerate(arrived)]  # the head and the role's chunk go first
    assert max(late) < 0.08 + METER.late(sent[0])


def test_connections_are_reused(secure, trusting):
    """One TLS connection serves chats and streams in turn."""
    secure.reply("ok", times=4)
    for _ in range(2):
        assert trusting.chat("hi").text == "ok"
        with trusting.stream("hi") as stream:
            assert list(stream) == ["ok"]
    assert secure.connections == 1


def test_large_body(secure, trusting):
    """A body of many TLS records arrives whole."""
    text = "größe " * 200000
    secure.reply(text)
    assert trusting.chat("x" * 500000).text == text
    assert len(secure.requests[0].body) > 500000


@pytest.mark.parametrize("method, steps", [
    ("chat", [piece for _ in range(100) for piece in (b"H", 0.02)]),
    ("chat", [HEAD % b"application/json", *[piece for _ in range(100) for piece in (b" ", 0.02)]]),
    ("stream", [HEAD % b"text/event-stream", CHUNK, *[piece for _ in range(100) for piece in (b": ping\n\n", 0.02)]]),
    ("stream", [HEAD % b"text/event-stream", *[piece for _ in range(100) for piece in (CHUNK, 0.02)]]),
    ("chat", [testing.STALL]), ("stream", [HEAD % b"text/event-stream", CHUNK, testing.STALL]),
], ids=["head", "body", "pings", "events", "silence", "silent stream"])  # fmt: skip
def test_deadline(secure, trusting, method, steps):
    """A deadline holds over TLS whatever drips; what had arrived of a stream is on the error."""
    secure.raw(*steps)
    error, seconds = fails(trusting, method, deadline=0.25)
    assert isinstance(error, llmlite.DeadlineExceededError) and seconds < 0.5
    assert idle(secure)
    if method == "stream":
        assert error.response.text.startswith("a")


def test_close_from_another_thread(secure, trusting):
    """close() wakes a thread that waits for the next event, and closes the connection."""
    secure.raw(HEAD % b"text/event-stream", CHUNK, testing.STALL)
    stream, seen = trusting.stream("hi"), []
    reader = threading.Thread(target=lambda: seen.extend(stream))
    reader.start()
    while not seen:
        time.sleep(0.001)
    time.sleep(0.02)  # the reader is inside a read of the socket now
    started = time.monotonic()
    stream.close()
    reader.join(5)
    assert not reader.is_alive() and seen == ["a"] and within(0, started, 0.5)
    assert idle(secure) and stream.text == "a"


@pytest.mark.parametrize("end", ["close", "reset"])
def test_connection_that_breaks(secure, trusting, end):
    """A TLS connection that ends inside a stream is a StreamError, or a truncated one, with what had arrived."""
    secure.stream(["a", "b"], end=end, truncate=300)
    error, _ = fails(trusting, "stream")
    assert isinstance(error, llmlite.StreamError) and error.response is not None


def test_stale_connection(secure, trusting):
    """A pooled TLS connection that the server has closed is replaced, and nothing is asked twice."""
    secure.reply("ok", times=2)
    trusting.chat("hi")
    assert secure.drop_connections() == 1
    assert trusting.chat("hi").text == "ok"
    assert (len(secure.requests), secure.connections) == (2, 2)


# ------------------------------------------------------------------------------------------------------ through a proxy


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy that does CONNECT."""

    def handle(self):
        head = b"".join(iter(self.rfile.readline, b"\r\n"))
        self.server.heads.append(head)
        host, port = head.split(b" ")[1].rsplit(b":", 1)
        with socket.create_connection((host.decode(), int(port))) as there:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            pump(self.connection, there)


def pump(one, other):
    """Carry bytes both ways until either side ends."""
    with contextlib.suppress(OSError):
        while True:
            for source in select.select([one, other], [], [], 5)[0]:
                data = source.recv(65536)
                if not data:
                    return
                (other if source is one else one).sendall(data)


@pytest.fixture
def tunnel():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        proxy.heads = []
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


@pytest.mark.parametrize("own", [True, False], ids=["own", "theirs"])
def test_through_a_proxy(secure, tunnel, bundle, monkeypatch, own):
    """https goes through the environment's proxy by CONNECT, which sees no key; one tunnel serves several calls."""
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:word@127.0.0.1:{tunnel.server_address[1]}")
    secure.reply("ok", times=2)
    secure.raw(testing.STALL)
    with requests.Session() as session:
        client = llmlite.Client("m", base_url=secure.url, api_key=KEY, retry=None, session=None if own else session)
        assert client.chat("hi").text == "ok"
        with client.stream("hi") as stream:
            assert list(stream) == ["ok"]
        error, seconds = fails(client, deadline=0.2)
        client.close()
    assert isinstance(error, llmlite.DeadlineExceededError) and seconds < 0.45
    assert client.ledger.unknown == 1  # sent, and no answer came: it may be billed
    assert len(tunnel.heads) == 1 and tunnel.heads[0].startswith(b"CONNECT 127.0.0.1:")
    assert b"Proxy-Authorization: Basic" in tunnel.heads[0] and KEY.encode() not in tunnel.heads[0]
    assert all("proxy-authorization" not in request.headers for request in secure.requests)
    assert secure.requests[0].path == "/v1/chat/completions"


def test_through_a_proxy_from_another_thread(secure, tunnel, bundle, monkeypatch):
    """A wrapper around the sessions that sends from another thread changes nothing of that."""
    send = requests.Session.send
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{tunnel.server_address[1]}")
    secure.reply("ok")
    with ThreadPoolExecutor(1) as pool, llmlite.Client("m", base_url=secure.url, api_key=KEY, retry=None) as client:
        monkeypatch.setattr(requests.Session, "send", lambda *args, **how: pool.submit(send, *args, **how).result())
        assert client.chat("hi").text == "ok" and len(tunnel.heads) == 1
