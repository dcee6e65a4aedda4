"""The measured side: a small function for each library and each measure, run in the library's own environment.

    clients.py LIBRARY MEASURE URL [NAME=VALUE ...]        prints one JSON object

URL holds {kind}, {shape}, {count} and {framing}, see server.py. Nothing is imported that `import requests` would not
import too, and a library only by its own function. Times are seconds.
"""
from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional

Messages = List[Dict[str, Any]]
MESSAGES: Messages = [{"role": "user", "content": "Why is the sky blue?"}]
HEADERS = {"Authorization": "Bearer sk-benchmark-0123456789", "Content-Type": "application/json"}
POOL = 16
RETRIES: Dict[str, Dict[str, Any]] = {  # where the server refuses; llmlite has those it has by default
    "openai": {"max_retries": 10}, "anthropic": {"max_retries": 10}, "litellm": {"num_retries": 10},
    "genai": {"retry_options": {"attempts": 11}}}
PATHS = {"openai": "/chat/completions", "responses": "/responses", "anthropic": "/v1/messages",
         "gemini": "/models/m:generateContent"}


class Opened(NamedTuple):
    """A library's client at one address."""

    ask: Callable[[Messages], Any]
    pieces: Callable[[], Iterable[Any]]  # text where the library makes text of a chunk, else the decoded chunk
    count: Optional[Callable[[], int]] = None  # reads a stream without the cost of a generator
    map: Optional[Callable[[Iterable[str], int], Iterable[Any]]] = None  # over so many workers; failures are among them


def payload(messages: Messages, **more: Any) -> Dict[str, Any]:
    """A request's body."""
    return {"model": "m", "messages": messages, **more}


def chunks_of(pieces: Iterable[bytes]) -> Iterator[Any]:
    """The shortest loop that reads events from bytes as they come."""
    rest = b""
    for got in pieces:
        *lines, rest = (rest + got).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
                yield json.loads(line[5:])


def open_llmlite(url: str, shape: str, **given: Any) -> Opened:
    """llmlite."""
    import llmlite
    given.update({"openai": {}, "responses": {"api": "responses"}}.get(shape, {"provider": shape}))
    client = llmlite.Client("m", base_url=url, api_key="sk-benchmark-0123456789", **given)
    return Opened(lambda messages: client.chat(messages).text, lambda: client.stream(MESSAGES),
                  map=lambda prompts, workers: client.map(prompts, workers=workers))


def open_llmlite_deadline(url: str, shape: str) -> Opened:
    """llmlite with a deadline, which is checked at each read."""
    return open_llmlite(url, shape, deadline=60)


def open_llmlite_declared(url: str, shape: str) -> Opened:
    """llmlite that is told what the server grants."""
    import llmlite
    return open_llmlite(url, shape, rate_limit=llmlite.RateLimit(requests_per_minute=3000))


def open_llmlite_dict(url: str, shape: str) -> Opened:
    """llmlite with a dict for a cache."""
    return open_llmlite(url, shape, cache={})


def open_llmlite_cache(url: str, shape: str) -> Opened:
    """llmlite with its own cache, a file in the current folder."""
    import llmlite
    return open_llmlite(url, shape, cache=llmlite.Cache("answers.sqlite"))


def open_requests(url: str, shape: str, pool: int = 10) -> Opened:
    """Bare requests, as people write it."""
    import requests
    session = requests.Session()
    if pool != 10:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=pool))
    url += PATHS[shape]

    def pieces() -> Iterator[Any]:
        with session.post(url, json=payload(MESSAGES, stream=True), headers=HEADERS, stream=True) as answer:
            for line in answer.iter_lines():
                if line.startswith(b"data:") and line != b"data: [DONE]":
                    yield json.loads(line[5:])

    def count() -> int:
        found = 0
        with session.post(url, json=payload(MESSAGES, stream=True), headers=HEADERS, stream=True) as answer:
            for line in answer.iter_lines():
                if line.startswith(b"data:") and line != b"data: [DONE]":
                    json.loads(line[5:])
                    found += 1
        return found

    return Opened(lambda messages: session.post(url, json=payload(messages), headers=HEADERS).json(), pieces, count)


def open_requests_pool(url: str, shape: str) -> Opened:
    """Bare requests with room for a connection a thread."""
    return open_requests(url, shape, pool=POOL)


def open_urllib3(url: str, shape: str) -> Opened:
    """Bare urllib3."""
    import urllib3
    pool = urllib3.PoolManager(maxsize=POOL)
    url += PATHS[shape]

    def ask(messages: Messages) -> Any:
        return json.loads(pool.request("POST", url, body=json.dumps(payload(messages)), headers=HEADERS).data)

    def pieces() -> Iterator[Any]:
        answer = pool.request("POST", url, body=json.dumps(payload(MESSAGES, stream=True)), headers=HEADERS,
                              preload_content=False)
        yield from chunks_of(answer.stream(1 << 16))
        answer.release_conn()

    return Opened(ask, pieces)


def open_http_client(url: str, shape: str) -> Opened:
    """The standard library's http.client, for one thread."""
    import http.client
    host, _, path = url[len("http://"):].partition("/")
    connection = http.client.HTTPConnection(host)
    path = "/" + path + PATHS[shape]

    def send(body: Any) -> Any:
        connection.request("POST", path, json.dumps(body), HEADERS)
        return connection.getresponse()

    def received() -> Iterator[bytes]:
        answer = send(payload(MESSAGES, stream=True))
        return iter(lambda: answer.read1(1 << 16), b"")

    return Opened(lambda messages: json.loads(send(payload(messages)).read()), lambda: chunks_of(received()))


def open_httpx(url: str, shape: str) -> Opened:
    """Bare httpx."""
    import httpx
    client = httpx.Client(timeout=600)
    url += PATHS[shape]

    def pieces() -> Iterator[Any]:
        with client.stream("POST", url, json=payload(MESSAGES, stream=True), headers=HEADERS) as answer:
            for line in answer.iter_lines():
                if line.startswith("data:") and line != "data: [DONE]":
                    yield json.loads(line[5:])

    return Opened(lambda messages: client.post(url, json=payload(messages), headers=HEADERS).json(), pieces)


def open_openai(url: str, shape: str, **given: Any) -> Opened:
    """The openai SDK."""
    import openai
    create = openai.OpenAI(base_url=url, api_key="sk-benchmark", **given).chat.completions.create
    return Opened(lambda messages: create(model="m", messages=messages).choices[0].message.content,
                  lambda: (chunk.choices[0].delta.content for chunk in create(model="m", messages=MESSAGES, stream=True)
                           if chunk.choices))


def open_anthropic(url: str, shape: str, **given: Any) -> Opened:
    """The anthropic SDK."""
    import anthropic
    create = anthropic.Anthropic(base_url=url, api_key="sk-benchmark", **given).messages.create
    return Opened(lambda messages: create(model="m", max_tokens=999, messages=messages).content[0].text,
                  lambda: (event.delta.text for event in create(model="m", max_tokens=999, messages=MESSAGES,
                           stream=True) if event.type == "content_block_delta"))


def open_genai(url: str, shape: str, **given: Any) -> Opened:
    """The google-genai SDK."""
    from google import genai
    client = genai.Client(api_key="benchmark", http_options={"base_url": url, **given})
    question = MESSAGES[0]["content"]  # the client must be held: it closes when nothing holds it
    return Opened(lambda messages: client.models.generate_content(model="m", contents=question).text,
                  lambda: (chunk.text for chunk in client.models.generate_content_stream(model="m", contents=question)))


def open_litellm(url: str, shape: str, **given: Any) -> Opened:
    """litellm."""
    import litellm
    given.update(model="openai/m", api_base=url, api_key="sk-benchmark")
    return Opened(lambda messages: litellm.completion(messages=messages, **given).choices[0].message.content,
                  lambda: (chunk.choices[0].delta.content for chunk in litellm.completion(
                      messages=MESSAGES, stream=True, **given)))


def counted(opened: Opened) -> int:
    """Read a whole stream; how many pieces it had."""
    if opened.count:
        return opened.count()
    found = 0
    for _ in opened.pieces():
        found += 1
    return found


def peak() -> float:
    """The most memory the process has held, in MB (0 where the system does not say)."""
    try:
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
    except OSError:
        return 0


def timed(work: Callable[[], Any]) -> Dict[str, Any]:
    """CPU and wall time of one piece of work, and what came of it."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "result": result}


def repeat(work: Callable[..., Any], times: int, *given: Any) -> Any:
    """The same again and again; the last result."""
    for _ in range(times):
        result = work(*given)
    return result


def measure_cold(opened: Callable[..., Opened]) -> Dict[str, Any]:
    """One call; the whole process is timed from outside."""
    assert opened(kind="call").ask(MESSAGES)
    return {}


def measure_call(opened: Callable[..., Opened], calls: int = 400) -> Dict[str, Any]:
    """Calls one after another, on one connection."""
    ask = opened(kind="call").ask
    repeat(ask, 20, MESSAGES)
    took = timed(lambda: repeat(ask, calls, MESSAGES))
    assert took["result"]
    return {name: took[name] / calls for name in ("cpu", "wall")}


def measure_chunk(opened: Callable[..., Opened], few: int = 5000, many: int = 20000, pairs: int = 5) -> Dict[str, Any]:
    """A chunk's cost: what the chunks that the longer stream has more cost more (the median of some pairs)."""
    clients = [opened(count=count) for count in (few, many)]
    counted(clients[0])
    quotients = []
    for _ in range(pairs):
        short, long = (timed(lambda client=client: counted(client)) for client in clients)
        assert short["result"] >= few and long["result"] >= many, (short, long)
        quotients.append((long["cpu"] - short["cpu"]) / (many - few))
    return {"cpu": sorted(quotients)[pairs // 2]}


def measure_whole(opened: Callable[..., Opened], count: int = 1000) -> Dict[str, Any]:
    """A whole stream: cost of each piece, and the memory the process took at most."""
    client = opened(count=count)
    before = peak()
    took = timed(lambda: counted(client))
    return {"cpu": took["cpu"] / count, "peak": peak(), "grown": peak() - before, "text": count * 17 / 1e6}


def measure_first(opened: Callable[..., Opened], streams: int = 60) -> Dict[str, Any]:
    """From the call to its first piece (in its median)."""
    client = opened(count=20)
    took = []
    for _ in range(streams + 5):
        start = time.perf_counter()
        pieces = iter(client.pieces())
        while not next(pieces):
            pass
        took.append(time.perf_counter() - start)
        for _ in pieces:
            pass
    return {"wall": sorted(took[5:])[streams // 2]}


def sent_at(piece: Any) -> Optional[float]:
    """The time that a piece of a "tick" stream holds."""
    if isinstance(piece, dict):
        piece = piece["choices"][0]["delta"].get("content") if piece.get("choices") else None
    return float(piece) if piece else None


def measure_late(opened: Callable[..., Opened], count: int = 200) -> Dict[str, Any]:
    """How late a piece is here, after it was sent (in the median)."""
    late = []
    for piece in opened(kind="tick", count=count).pieces():
        sent, now = sent_at(piece), time.monotonic()
        if sent is not None:
            late.append(now - sent)
    assert len(late) == count, len(late)
    return {"wall": sorted(late)[count // 2], "worst": max(late)}


def measure_threads(opened: Callable[..., Opened], calls: int = 2000, threads: int = 16) -> Dict[str, Any]:
    """Calls from many threads on one client."""
    ask = opened(kind="call").ask
    done: List[int] = []
    start = threading.Barrier(threads + 1)

    def work() -> None:
        for at in range(8 + calls // threads):
            if at == 8:  # all connections are open
                start.wait(60)
            assert ask(MESSAGES)
        done.append(1)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    start.wait(60)
    took = timed(lambda: [worker.join() for worker in workers])
    assert len(done) == threads
    return {name: took[name] / calls for name in ("cpu", "wall")}


def measure_pace(opened: Callable[..., Opened], way: str = "threads", calls: int = 1000, threads: int = 32,
                 url: str = "") -> Dict[str, Any]:
    """Calls that the server grants at its own pace, from threads or through llmlite's map; when it granted them."""
    from concurrent.futures import ThreadPoolExecutor
    from urllib.request import urlopen
    opened(kind="call").ask(MESSAGES)  # what is loaded at the first call is loaded
    client = opened(retries=True, kind="paced", count=os.getpid())

    def outcome(_: int) -> Any:
        try:
            return client.ask(MESSAGES)
        except Exception as error:  # of whatever library
            return error

    def through_threads() -> List[Any]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(outcome, range(calls)))

    def through_map() -> List[Any]:
        assert client.map
        return list(client.map([MESSAGES[0]["content"]] * calls, threads))

    took = timed(through_map if way == "map" else through_threads)
    failures = [got for got in took["result"] if isinstance(got, Exception)]
    if failures:
        print(f"{len(failures)} failures, the first: {failures[0]!r:.300}", file=sys.stderr)
    with urlopen(url.format(kind="granted", shape="any", count=os.getpid(), framing="any")) as answer:
        seen = json.load(answer)
    return {"wall": took["wall"], "cpu": took["cpu"], "failed": len(failures), **seen}


def measure_map(opened: Callable[..., Opened], count: int = 1000, workers: int = 8,
                cores: str = "one") -> Dict[str, Any]:
    """CPU of a prompt through map, and of a plain call; what memory grew by after the first 1,000.

    1,000 prompts of the map and 500 calls take turns, 7 times at the least (then with a new map after each `count`), so
    that both have their share of quiet moments; what counts is the lower quartile of each: other work on the machine
    only adds to either, and more to a lone call, which sleeps and wakes more often.
    """
    from itertools import chain, islice
    if cores == "all":
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    client = opened(kind="call")
    question = MESSAGES[0]["content"]
    assert client.map
    maps = (client.map((question for _ in range(count)), workers) for _ in range(8))
    results = chain.from_iterable(maps)
    walls: List[float] = []

    def through_map() -> int:
        wall = time.perf_counter()
        good = sum(not isinstance(got, Exception) for got in islice(results, 1000))
        walls.append(time.perf_counter() - wall)
        time.sleep(0.02)  # until those that were read ahead are answered too
        return good

    assert through_map() == 1000
    before, mapped, plain = peak(), [], []
    for _ in range(max(7, count // 1000 - 1)):
        took = timed(through_map)
        assert took["result"] == 1000
        mapped.append(took["cpu"] / 1000)
        plain.append(timed(lambda: repeat(client.ask, 500, MESSAGES))["cpu"] / 500)
    cpu, call, wall = (sorted(values)[len(values) // 4] for values in (mapped, plain, walls))
    return {"cpu": cpu, "plain": call, "rate": 1000 / wall, "grown": peak() - before}


def measure_send(opened: Callable[..., Opened], what: str = "history", count: int = 2000) -> Dict[str, Any]:
    """A large request: so many messages, or an image of so many MB."""
    ask = opened(kind="call").ask
    turn = "A turn of a long conversation, with a sentence or two in it, as people write them."
    messages: Messages = [{"role": role, "content": turn} for role in ("user", "assistant") * (count // 2)]
    if what == "image":
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * (count << 17)}}
        messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]
    ask(messages)
    took = timed(lambda: repeat(ask, 5, messages))
    return {"cpu": took["cpu"] / 5 / count, "peak": peak()}


def measure_ceiling(opened: Callable[..., Opened], url: str = "", calls: int = 3000) -> Dict[str, Any]:
    """What the server can do, asked by bare sockets: calls a second on 1 and on 16 connections, chunks a second."""
    import socket
    host, port = url.split("/")[2].split(":")
    ask, many = (b"POST /%s/x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}" % what for what in (
        b"call/openai/1/chunked", b"text/openai/200000/closed"))
    socks = [socket.create_connection((host, int(port))) for _ in range(16)]
    buffer = bytearray(1 << 20)

    def rounds(socks: Any) -> None:
        for _ in range(calls // len(socks)):
            for sock in socks:
                sock.sendall(ask)
            for sock in socks:
                sock.recv_into(buffer)  # an answer is one send, and fits

    def stream() -> None:
        socks[0].sendall(many)
        while socks[0].recv_into(buffer):
            pass

    one, all_, chunks = (timed(work)["wall"] for work in (lambda: rounds(socks[:1]), lambda: rounds(socks), stream))
    return {"calls on 1 connection": calls / one, "calls on 16": calls / all_, "chunks": 200000 / chunks}


def main(library: str, measure: str, url: str, *given: str) -> None:
    """Run one measure and print what it found."""
    options: Dict[str, Any] = {}
    place = {"kind": "text", "shape": "openai", "framing": "chunked", "count": 1}
    for name, _, value in (item.partition("=") for item in given):
        (place if name in ("kind", "shape", "framing") else options)[name] = int(value) if value.isdigit() else value

    def opened(retries: bool = False, **changed: Any) -> Opened:
        where = {**place, **changed}
        given = RETRIES.get(library, {}) if retries else {}
        found: Opened = globals()["open_" + library](url.format(**where), where["shape"], **given)
        return found

    if measure in ("ceiling", "pace"):
        options["url"] = url
    print(json.dumps(globals()["measure_" + measure](opened, **options)))


if __name__ == "__main__":
    main(*sys.argv[1:])
