"""`prompt_cache`: what is asked of each provider so that it keeps a prompt, and what it says that it kept."""
import copy
import json

import pytest
import requests
from requests.adapters import BaseAdapter

from tests import llmlite
from tests.dialects import ADD, HI, KEY
from tests.dialects.anthropic import REDACTED, THINKING, body

MARK, HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}


class Recorder(BaseAdapter):
    """Answers for a provider's own host, and keeps what was sent there."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.sent = answer, []

    def send(self, request, **options):
        self.sent.append(json.loads(request.body))
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response._content = json.dumps(self.answer).encode()
        return response

    def close(self):
        pass


@pytest.mark.parametrize("provider, answer", [
    ("anthropic", body({"type": "text", "text": "Hi"})),
    ("openrouter", {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]})])
def test_at_the_providers_own_host(provider, answer):
    """Anthropic and OpenRouter mark a body as a whole; a call's word is over the client's."""
    session, recorder = requests.Session(), Recorder(answer)
    session.mount("https://", recorder)
    with llmlite.Client(f"{provider}/m", api_key=KEY, session=session, prompt_cache="1h") as llm:
        for given in (None, True, "1h", False):
            assert llm.chat("hi", prompt_cache=given).text == "Hi"
    assert [sent.get("cache_control") for sent in recorder.sent] == [HOUR, MARK, HOUR, None]
    assert all(sent["messages"] == [HI] for sent in recorder.sent)
    session.close()


@pytest.mark.parametrize("provider, api", [
    ("openai", "chat"), ("openai", "responses"), ("gemini", "auto"), ("mistral", "auto"), ("openrouter", "auto"),
    ("vllm", "auto")])
@pytest.mark.parametrize("ask", ["chat", "stream"])
def test_where_nothing_is_needed(server, provider, api, ask):
    """The others keep prompts by themselves, or not at all: nothing is said."""
    server.reply("ok", times=2)
    with llmlite.Client("m", provider=provider, base_url=server.url, api_key=KEY, api=api) as llm:
        for given in (None, True):
            reply = getattr(llm, ask)("hi", prompt_cache=given)
            assert "".join(reply) == "ok" if ask == "stream" else reply.text == "ok"
    assert server.requests[0].json == server.requests[1].json


def test_raw_completions_say_nothing(server):
    """It is a chat's word, on a client too."""
    server.reply("ok")
    with llmlite.Client("m", provider="openrouter", base_url=server.url, api_key=KEY, prompt_cache=True) as llm:
        assert llm.complete("hi").text == "ok"
    assert server.requests[0].json == {"model": "m", "prompt": "hi"}


def sent_elsewhere(server, messages, **options):
    """What an Anthropic client sends to a server that is not Anthropic's; the history is left as it was."""
    server.reply("ok")
    before = copy.deepcopy(messages)
    with llmlite.Client("m", provider="anthropic", base_url=server.root, api_key=KEY, prompt_cache=True) as llm:
        llm.chat(messages, **options)
    assert messages == before
    return server.requests[-1].json


def text(said, **more):
    return {"type": "text", "text": said, **more}


def test_on_servers_that_know_marks_alone(server):
    """The last tool, the system prompt and the last message are marked."""
    sent = sent_elsewhere(server, [HI], system="s", tools=[ADD, {"type": "web_search_20260209", "name": "web_search"}])
    assert [tool.get("cache_control") for tool in sent["tools"]] == [None, MARK]
    assert sent["system"] == [text("s", cache_control=MARK)]
    assert sent["messages"] == [{"role": "user", "content": [text("hi", cache_control=MARK)]}]
    assert "cache_control" not in sent


@pytest.mark.parametrize("content, marked", [
    ([text("a"), text("b")], [text("a"), text("b", cache_control=MARK)]),
    ([text("a"), THINKING, REDACTED], [text("a", cache_control=MARK), THINKING, REDACTED]),
    ([THINKING], [THINKING]), ("", "")])
def test_what_takes_no_mark(server, content, marked):
    """Thinking is never marked, and nothing at all where there is nothing else."""
    turn = {"role": "assistant", "content": content}
    assert sent_elsewhere(server, [HI, turn])["messages"] == [HI, {"role": "assistant", "content": marked}]


@pytest.mark.parametrize("given", ["2h", 5, [], "", 0.5])
def test_a_word_that_is_none(server, given):
    with pytest.raises(llmlite.ConfigurationError, match="prompt_cache="):
        llmlite.Client("m", base_url=server.url, prompt_cache=given)
    with llmlite.Client("m", base_url=server.url) as llm, pytest.raises(llmlite.ConfigurationError, match="prompt_ca"):
        llm.chat("hi", prompt_cache=given)
    assert server.requests == []


DETAILS = {"cached_tokens": 4, "cache_write_tokens": 7}


@pytest.mark.parametrize("provider, api, answer", [
    ("openai", "chat", {"choices": [{"message": {"content": "Hi"}}], "usage": {
        "prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22, "prompt_tokens_details": DETAILS}}),
    ("openai", "responses", {"status": "completed", "output": [], "usage": {
        "input_tokens": 20, "output_tokens": 2, "input_tokens_details": DETAILS}}),
    ("anthropic", "auto", {**body(text("Hi")), "usage": {
        "input_tokens": 9, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 7, "output_tokens": 2}})])
def test_what_was_kept_is_counted(server, provider, api, answer):
    """Tokens read and tokens written are two numbers, both within the input; the ledger sums them."""
    server.json(answer, times=2)
    base = server.root if provider == "anthropic" else server.url
    with llmlite.Client("m", provider=provider, base_url=base, api_key=KEY, api=api) as llm:
        assert llm.chat("hi").usage == llmlite.Usage(20, 2, 4, 0, 7)
        llm.chat("hi")
        assert llm.ledger.usage == llmlite.Usage(40, 4, 8, 0, 14)
