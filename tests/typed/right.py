"""What users write, and what type checkers are to make of it: neither mypy --strict nor pyright has a word to say."""
from __future__ import annotations

import asyncio
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Literal, Mapping, Optional, Sequence, Tuple, TypeVar, Union

from typing_extensions import TypedDict, assert_type

import llmlite
from llmlite import Client, Conversation, LLMError, Response, Stream, Token, batch

T = TypeVar("T")


@dataclass
class City:
    name: str
    people: int


class Message(TypedDict):  # as the openai package has them
    role: str
    content: str


class Tool(TypedDict):
    type: str
    function: Dict[str, object]


class Dumped:  # as pydantic has them
    def model_dump(self, *, mode: str = "python", exclude_none: bool = False) -> Dict[str, Any]:
        return {"role": "user", "content": "Hi"}


class Weather(TypedDict):
    degrees: float


def weather(city: str, unit: str = "C") -> float:
    """The temperature in a city."""
    return 21.5


def plain(llm: Client) -> str:
    reply = llm.chat("Why is the sky blue?", system="One sentence.", temperature=0, max_tokens=100, seed=1)
    assert_type(reply.text, str)
    assert_type(reply.usage.output_tokens, int)
    assert_type(reply.finish_reason, Optional[Literal["stop", "length", "tool_calls", "content_filter", "other"]])
    assert_type(reply.parsed, Any)
    json.dumps(reply.to_dict())
    history = [{"role": "user", "content": "Hi"}, reply.message, llmlite.user("And?", images=Path("sky.png"))]
    if reply.finish_reason == "length":
        reply = llm.chat(history, max_tokens=1000, timeout=(5, 60), deadline=None, cache="refresh", prompt_cache="1h")
    return reply.text


def histories(llm: Client, ours: List[Message], tools: List[Tool], kept: Sequence[Mapping[str, Any]]) -> None:
    llm.chat(ours, tools=tools, tool_choice="required")
    llm.chat(kept)
    llm.chat(message for message in ours)
    llm.chat([Dumped(), llm.chat("Hi"), llmlite.assistant("Hello.")])
    reply = llm.chat("Hi", schema=City)
    results = [llmlite.tool_result(call, 21.5) for call in reply.tool_calls]
    llm.chat([reply, reply.message, llmlite.user("Hi", images=reply.files), *results, *ours, *kept, Dumped()])
    talk = llm.conversation(messages=ours, tools=tools)
    talk.send(ours)
    talk.send(Dumped())
    llm.embed(message["content"] for message in ours)
    llm.complete(iter([1, 2, 3]), stop=("a", "b"))


def clients(path: Path) -> None:
    with Client("openai/gpt-5-mini", api="responses", fallbacks=["anthropic/claude-haiku-4-5"], cache={}) as llm:
        assert_type(llm, Client)
        assert_type(llm.models(), List[str])
        assert_type(llm.embed(["a", "b"]).vectors, List[List[float]])
        assert_type(llm.ledger.usage.total_tokens, int)
        assert_type(llm.count_tokens("Hi", tools=[weather]), int)
    Client("qwen3", base_url="http://localhost:8000/v1", timeout=30, api_key=lambda: "key", save_failed=path,
           retry=llmlite.RetryPolicy(max_retries=1), rate_limit=llmlite.RateLimit(60), headers={"X-Team": "a"})


def schemas(llm: Client, schema: Dict[str, Any]) -> str:
    city = llm.chat("Where is the Louvre?", schema=City)
    assert_type(city, Response[City])
    assert_type(city.parsed.people, int)
    assert_type(llm.chat("How warm is it?", schema=Weather).parsed["degrees"], float)
    assert_type(llm.chat("Where?", schema=schema).parsed, Any)
    assert_type(llm.chat("Where?", schema=None).parsed, Any)
    found: Dict[str, Any] = llm.chat("Where?", schema=dict).parsed  # pyright: ignore  # dict, of it knows not what
    assert_type(llmlite.chat("Where?", model="openai/gpt-5-mini", schema=City).parsed, City)
    assert_type(llm.run_tools("Where?", [weather], schema=City).parsed, City)
    assert_type(llm.conversation().send("Where?", schema=City).parsed, City)
    assert_type(llm.conversation().stream("Where?", schema=City).response.parsed, City)
    with llm.stream("Where?", schema=City) as stream:
        assert_type(stream, Stream[str, City])
        for text in stream:
            assert_type(text, str)
    assert_type(stream.response.parsed.name, str)
    anything: List[Response] = [city, llm.chat("Hi")]
    return str(found["name"]) + anything[0].text


def extracted(llm: Client, kind: type[T]) -> T:
    return llm.chat("Where is the Louvre?", schema=kind).parsed


def streams(llm: Client) -> None:
    with llm.stream("Tell me a story", top_p=0.9) as stream:
        assert_type(stream, Stream[str])
        for text in stream:
            assert_type(text, str)
        assert_type(stream.response, Response[Any])
    for event in llm.stream("Think", reasoning_effort="high").events():
        if event.type == "tool_call":
            assert_type(event.tool_call, Optional[llmlite.ToolCall])
        elif event.type == "text":
            print(event.text, end="", flush=True)
    for token in llm.stream_tokens([1, 2, 3], max_tokens=5):
        assert_type(token, Token)
        print(token.id, token.logprob)
    assert_type(llmlite.stream("Hi", model="openai/gpt-5-mini", temperature=0), Stream[str])


def told(stream: Stream) -> Iterator[str]:
    yield from stream


def tools(llm: Client) -> None:
    reply = llm.run_tools("Is it warm in Rome?", [weather], max_rounds=3, temperature=0, deadline=60)
    for message in reply.messages:
        print(message["role"])
    asked = llm.chat("Is it warm?", tools=[weather, {"type": "web_search"}], tool_choice="auto")
    results = [llmlite.tool_result(call, weather(**call.arguments)) for call in asked.tool_calls]
    llm.chat([llmlite.user("Is it warm?"), asked.message, *results], extra={"store": False})


def many(llm: Client, prompts: List[str], in_order: bool) -> int:
    for either in llm.map(prompts, workers=16, system="One word.", temperature=0, progress=True):
        assert_type(either, Union[Response[Any], LLMError])
        print(either if isinstance(either, LLMError) else either.text)
    for reply in llm.map(prompts, errors="raise", schema=City):
        assert_type(reply, Response[City])
    for index, one in llm.map(prompts, ordered=False):
        assert_type((index, one), Tuple[int, Union[Response[Any], LLMError]])
    for _, reply in llm.map(({"messages": prompt} for prompt in prompts), ordered=False, errors="raise", schema=City):
        assert_type(reply.parsed, City)
    results = llm.map(prompts, ordered=in_order, schema={"type": "object"})
    results.close()
    return batch.run("in.jsonl", Path("out.jsonl"), client=llm, workers=16, temperature=0).done


def threads(llm: Client, prompts: List[str]) -> List[Response]:
    with ThreadPoolExecutor(8) as pool:
        first: Future[Response] = pool.submit(llm.chat, prompts[0], temperature=0)
        rest = list(pool.map(partial(llm.chat, temperature=0), prompts[1:]))
    ask: Callable[[str], Response] = llm.chat
    return [first.result(), *rest, ask("Hi")]


async def loop(llm: Client, prompts: List[str]) -> str:
    reply: Response = await asyncio.to_thread(llm.chat, prompts[0], deadline=30)
    return reply.text


def talks(llm: Client) -> Conversation:
    talk = llm.conversation(system="One sentence.", tools=[weather], temperature=0, compact_at=100_000, max_rounds=3)
    print(talk.send("Why is the sky blue?", max_tokens=50).text)
    for text in talk.stream("And at dusk?", keep_partial=True, top_p=0.5):
        assert_type(text, str)
    talk.compact(keep=4, model="openai/gpt-5-nano")
    talk.save("talk.json")
    return llm.load_conversation(Path("talk.json"), tools=[weather])


def errors(llm: Client) -> Optional[float]:
    try:
        llm.chat("Hi")
    except llmlite.RateLimitError as error:
        return error.retry_after
    except llmlite.APIError as error:
        assert_type(error.status_code, int)
    except LLMError as error:
        print(error.response and error.response.text, error.attempts, error.elapsed)
    return None
