"""What people really give: numbers, texts and messages of other libraries; what cannot be meant is refused by its type.

Other libraries are stood in for, by classes with what of them is used; where they are installed, by themselves too.
"""
import collections
import decimal
import fractions
import io
import json
import pathlib
import types

import pytest

from tests import llmlite, named, testing
from tests.stand_ins import Whole

USER = {"role": "user", "content": "hi"}
HELLO = {"role": "assistant", "content": "Hello"}
PNG = b"\x89PNG\r\n\x1a\n"


class Scalar:
    """A number of NumPy or torch: of no dimension, and `item()` is Python's own."""

    shape = ()

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value

    def __str__(self):
        return str(self.value)


class Array:
    """An array of numbers or texts; like those of NumPy neither true nor false."""

    def __init__(self, *items):
        self.items = items

    def __bool__(self):
        raise ValueError("the truth value of an array is ambiguous")

    def __eq__(self, other):
        return self

    def __repr__(self):
        return "\n".join(map(repr, self.items))

    def __iter__(self):
        return iter(map(Scalar, self.items))

    def tolist(self):
        return list(self.items)


class Valueless:
    """A number of TensorFlow's: of no dimension, and without `item()`."""

    shape = ()

    def __str__(self):
        return "tf.Tensor(5)"


class Unmade(Valueless):
    """A tensor of torch's that stands for a value which is nowhere yet."""

    def item(self):
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")


class Single(Array):
    """An array of no dimension."""

    shape = ()

    def __iter__(self):
        raise TypeError("iteration over a 0-d array")

    def __len__(self):
        raise TypeError("len() of unsized object")

    def tolist(self):
        return self.items[0]


class Series(Array):
    """A column of pandas."""

    def __iter__(self):
        return iter(self.items)

    def __len__(self):
        return len(self.items)


class DataFrame(Series):
    """A table of pandas, which yields the names of its columns."""

    columns = ("prompt", "answer")


class Dumped:
    """A message of openai's, or any of pydantic's models."""

    def __init__(self, **fields):
        self.fields = fields

    def model_dump(self, exclude_none=False):
        return {name: value for name, value in self.fields.items() if not (exclude_none and value is None)}


class NAType:
    """The missing value of pandas."""

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    def __ne__(self, other):
        return self

    def __repr__(self):
        return "<NA>"


class Text(str):
    """A str of NumPy."""


def refused(words, function, *args, **options):
    """`function` raises a ConfigurationError that says `words`, in one line."""
    with pytest.raises(llmlite.ConfigurationError) as caught:
        function(*args, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def sent(server):
    return server.requests[-1].json


# -------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("given, meant", [
    (Scalar(0.5), 0.5), (Scalar(0), 0), (decimal.Decimal("0.25"), 0.25), (fractions.Fraction(1, 4), 0.25)], ids=named)
def test_real_numbers(server, llm, given, meant):
    """A real number of any library is sent as JSON's own."""
    server.reply("ok")
    llm.chat("hi", temperature=given, extra={"penalty": given, "beams": Scalar(True)}, deadline=Scalar(5.0))
    assert (sent(server)["temperature"], sent(server)["penalty"], sent(server)["beams"]) == (meant, meant, True)


def test_whole_numbers(server, llm):
    """So is a whole one."""
    server.reply("ok")
    llm.chat("hi", max_tokens=Scalar(5), seed=Whole(7))
    assert server.requests[0].body.count(b'"max_tokens":5') == server.requests[0].body.count(b'"seed":7') == 1


@pytest.mark.parametrize("given, meant", [
    (Scalar(5), "5"), ({"sum": Scalar(0.5)}, '{"sum": 0.5}'), (decimal.Decimal("0.1"), '"0.1"'),
    (Scalar(decimal), json.dumps(str(decimal)))], ids=named)
def test_numbers_in_results(given, meant):
    """A number of NumPy's is one to the model too; what has more digits than a float stays text."""
    assert llmlite.tool_result("c", given)["content"] == meant


@pytest.mark.parametrize("given", [Valueless(), Unmade()], ids=named)
def test_numbers_that_tell_no_value(server, llm, given):
    """To the model they are text; as an argument they are refused as anything that is no number."""
    assert llmlite.tool_result("c", {"sum": given})["content"] == '{"sum": "tf.Tensor(5)"}'
    refused("temperature=", llm.chat, "hi", temperature=given)
    refused("has no JSON form", llm.chat, "hi", extra={"penalty": given})
    assert not server.requests


@pytest.mark.parametrize("name, value", [
    ("temperature", 1j), ("temperature", Scalar(True)), ("temperature", Scalar("hot")), ("temperature", Array(0.5)),
    ("temperature", decimal.Decimal("NaN")), ("temperature", decimal.Decimal("sNaN")), ("max_tokens", Scalar(5.5)),
    ("max_tokens", decimal.Decimal("5.5")), ("seed", Scalar(float("nan")))], ids=named)
def test_what_is_no_such_number(server, llm, name, value):
    """What is no number of the kind is refused by the argument's name."""
    refused(f"{name}=", llm.chat, "hi", **{name: value})
    assert not server.requests


@pytest.mark.parametrize("method, names, wrong", [
    ("complete", "temperature top_p min_p", "hot"), ("complete", "top_k max_tokens seed priority", 0.5),
    ("complete", "logprobs", -1), ("complete", "stop", 5), ("complete", "extra", [5]),
    ("chat", "temperature top_p", "hot"), ("chat", "top_k max_tokens seed", 0.5), ("chat", "logprobs", -1),
    ("chat", "system stop tool_choice reasoning_effort", 5), ("chat", "extra", [5])])
def test_each_option_is_of_its_kind(server, llm, method, names, wrong):
    """What is of another kind is refused by the option's name."""
    for name in names.split():
        refused(f"{name}=", getattr(llm, method), "hi", **{name: wrong})
    assert not server.requests


# ------------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("given, meant", [
    (USER, [USER]),
    (collections.OrderedDict(USER), [USER]),
    (types.MappingProxyType(USER), [USER]),
    ((USER, HELLO, USER), [USER, HELLO, USER]),
    ((one for one in (USER, HELLO)), [USER, HELLO]),
    (collections.deque([USER]), [USER]),
    (Series(USER), [USER]),
    (Dumped(**USER, refusal=None), [USER]),
    ([USER, Dumped(**HELLO, tool_calls=None), USER], [USER, HELLO, USER]),
    ([types.MappingProxyType(USER)], [USER]),
    (Text("hi"), [USER]),
    ([{"role": Text("user"), "content": Text("hi")}], [USER]),
], ids=named)  # fmt: skip
@pytest.mark.parametrize("method", ["chat", "stream"])
def test_messages_of_any_kind(server, llm, method, given, meant):
    """One message, an iterable of them, and objects that stand for one are sent as the list that is meant."""
    if isinstance(given, types.GeneratorType):
        given = (one for one in meant)
    server.reply("ok")
    str(getattr(llm, method)(given).text)
    assert sent(server)["messages"] == meant


def test_a_reply_among_the_messages(server, llm):
    """A reply stands for its message, tool calls and all; what was given is not changed."""
    server.reply("", tool_calls=[{"name": "add", "arguments": {"a": 1}}])
    server.reply("ok", times=2)
    first = llm.chat("hi")
    history = [USER, first, llmlite.tool_result(first.tool_calls[0], 3)]
    second = llm.chat(history)
    assert sent(server)["messages"] == json.loads(json.dumps([USER, first.message, history[2]]))
    assert history[1] is first
    llm.chat([USER, second, USER])
    assert sent(server)["messages"][1]["content"] == "ok"


def test_a_class_among_the_messages(server, llm):
    """The class is meant for its object: it is refused as the rest, in a map too, where the others are answered."""
    for given in (Dumped, [Dumped]):
        with pytest.raises(llmlite.ConfigurationError, match=r"^messages(\[0\])? is a type: give a "):
            llm.chat(given)
    server.reply("ok")
    refused, answered = llm.map([[Dumped], "hi"])
    assert isinstance(refused, llmlite.ConfigurationError) and answered.text == "ok"


def test_tools_of_another_mapping(server, llm):
    """A tool is any mapping, as its type says; it is sent as a dict."""
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    server.reply("ok", times=2)
    llm.chat("hi", tools=[types.MappingProxyType(tool)])
    llm.run_tools("hi", [types.MappingProxyType(tool)])
    assert [request.json["tools"] for request in server.requests] == [[tool], [tool]]


def test_a_reply_as_the_messages(server, llm):
    """A reply alone is a list of one."""
    server.reply("ok", times=2)
    llm.chat(llm.chat("hi"))
    assert sent(server)["messages"] == [{"role": "assistant", "content": "ok"}]


@pytest.mark.parametrize("method, given, name", [
    ("chat", lambda: iter([USER]), "messages"), ("complete", lambda: iter([1, 2]), "prompt")])
def test_an_iterator_is_read_once(server, method, given, name):
    """Retries and fallbacks send what it held."""
    server.error(500, times=2)
    server.reply("ok")
    policy = llmlite.RetryPolicy(max_retries=1, backoff=0)
    with llmlite.Client("a", base_url=server.url, fallbacks=["b"], retry=policy) as llm:
        assert getattr(llm, method)(given()).text == "ok"
    assert [request.json["model"] for request in server.requests] == ["a", "a", "b"]
    assert [request.json[name] for request in server.requests] == [list(given())] * 3


@pytest.mark.parametrize("given, words", [
    (b"hi", "messages is a bytes: give a str or a list of message dicts (.decode() makes a str of it)"),
    (bytearray(b"hi"), ".decode() makes a str of it"),
    (memoryview(b"hi"), "messages is a memoryview: give"),
    (pathlib.Path("prompt.txt"), 'Path(...).read_text(encoding="utf-8"); user(text, files=[path])'),
    (None, "messages is None: give a str or a list of message dicts (is a value missing"),
    (float("nan"), "messages is nan: give"),
    (NAType(), "messages is <NA>: give"),
    (5, "messages is a int: give a str or a list"),
    (Single("hi"), "messages is a Single: give a str or a list"),
    (DataFrame(), "messages is a DataFrame: give a str or a list"),
    (io.StringIO("hi"), "messages is a StringIO: give a str or a list of message dicts (.read() has its text)"),
    ({"messages": [USER]}, 'messages is a dict without a role: give a str or a list of message dicts ({"role": "user"'),
    ({"a"}, "messages is a set: give"),
    (iter(()), "messages is empty"),
    (["a", "b"], "messages[0] is a str: give a dict"), (["a", "b"], "for each prompt a call of its own, map(prompts)"),
    (Series("a", "b"), "map(prompts)"),
    ([USER, b"hi"], "messages[1] is a bytes: give a dict (.decode() makes a str of it)"),
    ([USER, [USER]], 'messages[1] is a list: give a dict ({"role": "user", "content": "..."})'),
    ([llmlite.Response()], "messages[0], a Response, has role None: give a dict"),
    ([Dumped(choices=[])], "messages[0], a Dumped, has role None"),
    ([Dumped(choices=[])], ".choices[0].message is one"),
    ([{"role": "model", "content": "a"}], 'did you mean "assistant"?'),
    ([{"role": "User", "content": "a"}], 'did you mean "user"?'),
    ([{"role": "human", "content": "a"}], 'did you mean "user"?'),
    ([{"role": "alien", "content": "a"}], "has role 'alien': give a dict whose role is one of assistant, developer"),
    ([{"role": "user", "content": None}], "messages[0].content is None: give a str (is a value missing"),
    ([{"role": "user"}], "messages[0].content is None: give a str"),
    ([{"role": "user", "content": b"a"}], "[0].content is a bytes: give a str or a list of dicts (.decode()"),
    ([{"role": "user", "content": pathlib.Path("a")}], "Path(...).read_text"),
    ([{"role": "user", "content": float("nan")}], "[0].content is a float: give a str or a list of dicts (is a v"),
    ([None], "messages[0] is a NoneType: give a dict (is a value missing"),
    ([llmlite.user(None, images=PNG)], "messages[0].content[0].text is a NoneType: give a str (is a value missing"),
    ([llmlite.user(b"hi", images=PNG)], "messages[0].content[0].text is a bytes: give a str (.decode() makes a str"),
], ids=named)  # fmt: skip
def test_messages_that_cannot_be_meant(server, llm, given, words):
    """What is no message is refused by its type, with what to give."""
    refused(words, llm.chat, given)
    assert not server.requests


def test_an_assistant_without_content(server, llm):
    """An assistant that only calls a tool says nothing."""
    server.reply("ok")
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    llm.chat([USER, {"role": "assistant", "content": None, "tool_calls": [call]}, llmlite.tool_result("c", "3")])
    assert sent(server)["messages"][1]["tool_calls"] == [call]


# --------------------------------------------------------------------------------------------------- prompts and texts


@pytest.mark.parametrize("given, meant", [
    ([Scalar(1), 2], [1, 2]), ((1, 2), [1, 2]), (Array(1, 2), [1, 2]), (Series(1, 2), [1, 2]), (range(1, 3), [1, 2]),
    (iter([1, 2]), [1, 2]), (Text("hi"), "hi")], ids=named)
def test_token_ids_of_any_kind(server, llm, given, meant):
    """Token ids come in lists, arrays and iterators of them."""
    server.reply("ok")
    llm.complete(given if meant == "hi" or not hasattr(given, "__next__") else iter(meant))
    assert sent(server)["prompt"] == meant


@pytest.mark.parametrize("given, words", [
    (b"hi", "it is a bytes (.decode() makes a str of it)"), (pathlib.Path("a"), "Path(...).read_text"),
    (None, "it is a NoneType (is a value missing"), (Array([1, 2]), "it is a Array"), (Single(5), "it is a Single"),
    (Single(b"hi"), "it is a Single"), ({1: 2}, "it is a dict"), ([1.5], "it is a list"),
    ("", "it is a str"), ({1, 2}, "it is a set"), (DataFrame("prompt"), "it is a DataFrame")], ids=named)
def test_prompts_that_cannot_be_meant(server, llm, given, words):
    """What is no prompt is refused by its type."""
    refused("prompt is not what complete() takes", llm.complete, given)
    refused(words, llm.complete, given)
    assert not server.requests


def test_ids_to_detokenize(server):
    """So do the ids that are to be text."""
    server.json({"prompt": "hi"}, times=3)
    with llmlite.Client("m", provider="vllm", base_url=server.url, retry=None) as llm:
        for ids in ([1, 2], Array(1, 2), iter([1, 2])):
            assert llm.detokenize(ids) == "hi" and sent(server)["tokens"] == [1, 2]
        refused("ids=b'hi': give a list or a tuple", llm.detokenize, b"hi")
        refused("ids=5", llm.detokenize, 5)


@pytest.mark.parametrize("make", [list, tuple, iter, lambda texts: Array(*texts), lambda texts: Series(*texts),
                                  lambda texts: map(Text, texts)])
def test_texts_of_any_kind(server, llm, make):
    """Texts come in lists, arrays and columns."""
    server.json({"data": [{"index": at, "embedding": [at]} for at in range(2)]})
    assert llm.embed(make(["a", "b"])).vectors == [[0], [1]]
    assert sent(server)["input"] == ["a", "b"]


@pytest.mark.parametrize("given, words", [
    (b"hi", "texts is a bytes (.decode() makes a str of it)"), (pathlib.Path("a"), "Path(...).read_text"),
    (["a", None], "texts[1] is a NoneType (is a value missing"), (["a", float("nan")], "texts[1] is a float (is a va"),
    (Series("a", NAType()), "texts[1] is a NAType (is a value missing"), (Single("a text"), "texts is a Single"),
    (["a", ""], "texts[1] is empty"),
    ([b"a"], "texts[0] is a bytes (.decode() makes a str of it)"), ([], "texts is a list"), ("", "texts is a str"),
    ({"a": "b"}, "texts is a dict"), ({"a"}, "vectors come in the order of the texts: give list(texts)"), (5, "a int"),
    (DataFrame("prompt"), 'texts is a DataFrame (give a column, texts["name"])')], ids=named)
def test_texts_that_cannot_be_meant(server, llm, given, words):
    """What is no text is refused by its type and place."""
    refused("texts is not what embed() takes", llm.embed, given)
    refused(words, llm.embed, given)
    assert not server.requests


# --------------------------------------------------------------------------------------------------------- many prompts


def test_a_column_of_prompts(server, llm):
    """map() takes a column; what is missing in it is an error in its place."""
    server.handle(lambda request: testing.reply(request.json["messages"][0]["content"].upper()))
    replies = list(llm.map(Series("a", float("nan"), Text("b"), None), workers=1))
    assert [str(reply) for reply in (replies[0], replies[2])] == ["A", "B"]
    assert "messages is nan" in str(replies[1]) and "messages is None" in str(replies[3])


def test_messages_among_the_prompts(server, llm):
    """An iterator of messages and a reply are prompts; a message alone belongs in a list, and the error says so."""
    server.reply("ok", times=2)
    done = list(llm.map([iter([USER]), llmlite.Response(message=HELLO), USER], workers=1))
    assert [str(reply) for reply in done[:2]] == ["ok", "ok"] and "a message: put it into a list" in str(done[2])
    assert [request.json["messages"] for request in server.requests] == [[USER], [HELLO]]


def test_a_table_of_prompts(llm):
    """A table yields the names of its columns: it is refused."""
    refused('prompts is a DataFrame (give a column, prompts["name"])', llm.map, DataFrame("prompt"))
    refused("prompts is a Single", llm.map, Single("a"))


# --------------------------------------------------------------------------------------------------------- files, paths


def test_one_file_or_several(server, llm, tmp_path):
    """A path, a str and bytes are files, alone or in a list."""
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    made = llmlite.File("image/png", PNG)
    parts = [llmlite.user("What is it?", images=given)["content"][1:] for given in (
        path, str(path), path.read_bytes(), [path], (one for one in [path]), Series(path), made, [made])]
    assert parts[0] and parts == [parts[0]] * 8
    assert llmlite.user("What is it?", files=path)["content"][1:] == parts[0]


@pytest.mark.parametrize("given, words", [
    ({"a": "b"}, "image is a dict: give a path, a URL or bytes"), (DataFrame("a"), "image is a DataFrame: give a path"),
    (Series([1]), "image is a list"), (5, "image is a int")], ids=named)
def test_what_is_no_file(given, words):
    """It is refused by its type, not by a name in it."""
    refused(words, llmlite.user, "What is it?", images=given)


@pytest.mark.parametrize("messages", [Series(USER), Array(USER), iter([USER])], ids=named)
def test_a_history_of_any_kind(llm, messages):
    """A conversation takes what a chat takes."""
    assert llm.conversation(messages=messages).messages == [USER]


def test_values_of_several_lines(llm):
    """What an error shows of them is one line."""
    refused("stop=1 2: give a str or a list", llm.chat, "hi", stop=Array(1, 2))


# -------------------------------------------------------------------------------------------------- the libraries' own


def test_numpy(server, llm):
    numpy = pytest.importorskip("numpy")
    server.reply("ok", times=2)
    llm.chat(numpy.str_("hi"), temperature=numpy.float32(0.5), max_tokens=numpy.int64(5), seed=numpy.array(7))
    assert [sent(server)[name] for name in ("temperature", "max_tokens", "seed")] == [0.5, 5, 7]
    llm.complete(numpy.array([1, 2]))
    assert sent(server)["prompt"] == [1, 2]
    server.json({"data": [{"index": at, "embedding": [at]} for at in range(2)]})
    assert llm.embed(numpy.array(["a", "b"])).vectors == [[0], [1]]
    refused("temperature=", llm.chat, "hi", temperature=numpy.bool_(True))
    refused("prompt is not", llm.complete, numpy.array([[1], [2]]))
    refused("messages[0] is a ", llm.chat, numpy.array(["a", "b"]))
    refused("messages is a ndarray", llm.chat, numpy.array("a"))
    refused("texts is a ndarray", llm.embed, numpy.array("a text"))


def test_pandas(server, llm):
    pandas = pytest.importorskip("pandas")
    server.handle(lambda request: testing.reply("ok") if "messages" in request.json else testing.json_body(
        {"data": [{"index": at, "embedding": [at]} for at in range(2)]}))
    table = pandas.DataFrame({"prompt": ["a", "b"]})
    assert [str(reply) for reply in llm.map(table["prompt"], workers=1)] == ["ok", "ok"]
    assert llm.embed(table["prompt"]).vectors == [[0], [1]]
    refused("give a column", llm.embed, table)
    refused("give a column", llm.map, table)
    refused("messages is <NA>", llm.chat, pandas.NA)
    refused("texts[1] is a NAType", llm.embed, pandas.Series(["a", None], dtype="string"))
    assert llm.conversation(messages=pandas.Series([USER])).messages == [USER]
    assert llmlite.user("hi", images=pandas.Series([PNG])) == llmlite.user("hi", images=PNG)


def test_pydantic(server, llm):
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Message", role=(str, ...), content=(str, ...), name=(str, None))
    server.reply("ok")
    llm.chat([USER, model(**HELLO), model(**USER)])
    assert sent(server)["messages"] == [USER, HELLO, USER]
