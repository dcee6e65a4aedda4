"""What users get wrong: of each line that ends in "# error" mypy and pyright complain, and of no other."""
from __future__ import annotations

from dataclasses import dataclass
from typing import List

import llmlite
from llmlite import Client, Stream, Token, batch


@dataclass
class City:
    name: str


def weather(city: str) -> float:
    return 21.5


llm = Client("openai/gpt-5-mini")
reply = llm.chat("Where is the Louvre?", schema=City)
talk = llm.conversation()

llm.chat("Hi", temprature=0)  # error
llm.chat("Hi", temperature="0")  # error
llm.chat("Hi", max_tokens=1.5)  # error
llm.chat("Hi", stop=5)  # error
llm.chat("Hi", tools=weather)  # error
llm.chat("Hi", schema="City")  # error
llm.chat("Hi", prompt_cache="2h")  # error
llm.chat("Hi", cache="anew")  # error
llm.chat(b"Hi")  # error
llm.chat(5)  # error
llm.chat("Hi", "Be brief.")  # error
llm.chat()  # error
llm.chat("Hi", stream=True)  # error
llm.chat("Hi", response_format={"type": "json_object"})  # error
llm.chat("Hi", timeout="5")  # error
llm.chat("Hi", headers={"X-Team": 5})  # error
llm.chat("Hi", schema=[City])  # error
llm.chat("Hi", schema=City("Rome"))  # error
llm.chat(["Hi"])  # error
llm.chat([5])  # error
llm.chat([City("Rome")])  # error
llm.chat("Hi", tools=[5])  # error
llm.chat(None)  # error
llm.chat("Hi")["choices"]  # error
llm.chat("Hi").message.content  # error
llm.chat("Hi").txt  # error
llm.chat("Hi").finish_reason == "lenght"  # error
llm.chat("Hi").usage.prompt_tokens  # error
llm.chat.completions.create(messages=[])  # error
reply.parsed.nmae  # error
reply.parsed["name"]  # error
number: int = reply.parsed.name  # error

llm.complet("Hi")  # error
llm.messages.create(messages=[])  # error
llmlite.chats("Hi")  # error
talk.sent("Hi")  # error

Client("openai/gpt-5-mini", api="response")  # error
Client("openai/gpt-5-mini", max_retries=3)  # error
Client("openai/gpt-5-mini", key="k")  # error
Client(["openai/gpt-5-mini"])  # error
Client("openai/gpt-5-mini", "openai")  # error
Client("openai/gpt-5-mini", retry=3)  # error
Client("openai/gpt-5-mini", cache="answers.sqlite")  # error
llmlite.RetryPolicy(retries=3)  # error
llmlite.user("Hi", image="sky.png")  # error
llmlite.tool_result("call_1")  # error

llmlite.chat("Hi", model="openai/gpt-5-mini", temprature=0)  # error
llmlite.chat("Hi", model="openai/gpt-5-mini", max_tokens="5")  # error
llmlite.chat("Hi", "openai/gpt-5-mini")  # error
llmlite.chat("Hi", model="openai/gpt-5-mini", schema=City).parsed.nmae  # error
llmlite.stream("Hi", model=5)  # error
llmlite.stream("Hi", model="openai/gpt-5-mini", retry=None)  # error

tokens: Stream[Token] = llm.stream("Hi")  # error
texts_: Stream[str] = llm.stream_tokens("Hi")  # error
llm.stream("Hi", topp=1)  # error
llm.stream("Hi", schema=City).response.parsed.nmae  # error
for text in llm.stream("Hi"):
    text.id  # error
for token in llm.stream_tokens("Hi"):
    token.upper()  # error
for event in llm.stream("Hi").events():
    event.type == "texts"  # error
    event.tool_call.name  # error

llm.run_tools("Hi", [weather], max_round=3)  # error
llm.run_tools("Hi", [weather], temperature="0")  # error
llm.run_tools("Hi", [weather], schema=City).parsed.nmae  # error
llm.run_tools("Hi")  # error
llm.run_tools("Hi", ["weather"])  # error

llm.map(["a"], worker=3)  # error
llm.map(["a"], errors="ignore")  # error
llm.map(["a"], max_tokens="5")  # error
llm.map(5)  # error
for result in llm.map(["a"]):
    result.text  # error
for pair in llm.map(["a"], ordered=False, errors="raise"):
    pair.text  # error

talk.send("Hi", temprature=0)  # error
talk.send("Hi", max_rounds="3")  # error
talk.stream("Hi", keep_partial="yes")  # error
llm.conversation(sytem="Be brief.")  # error
talk.send(5)  # error
talk.send("Hi", schema=City).parsed.nmae  # error
talk.compact(tools=[])  # error
texts: List[int] = llm.models()  # error
llm.embed([1])  # error
llm.request("GET")  # error
batch.run("in.jsonl", "out.jsonl", client=llm, worker=3)  # error
batch.run("in.jsonl", "out.jsonl", client="openai/gpt-5-mini")  # error


async def loop() -> None:
    await llm.chat("Hi")  # error
    async for _ in llm.stream("Hi"):  # error
        break
