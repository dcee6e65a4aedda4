"""Python functions as tools, types as schemas, answers read back into types, images as parts: no network."""
from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import json
import pathlib
import sys
import time
import types
import typing
from dataclasses import dataclass, field
from typing import (
    Any,
    Dict,
    FrozenSet,
    List,
    Literal,
    Mapping,
    NewType,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypedDict,
    Union,
)

import pytest

from tests import llmlite, named

tools = sys.modules[llmlite.Client.__module__]

try:
    from typing_extensions import Annotated, NotRequired, Required
except ImportError:
    Annotated, NotRequired, Required = map(vars(typing).get, ("Annotated", "NotRequired", "Required"))

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"
UserId = NewType("UserId", str)
OwnerId = NewType("OwnerId", UserId)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Nowhere(enum.Enum):
    """Holds nothing."""


class Odd(enum.Enum):
    PAIR = (1, 2)


@dataclass
class Place:
    city: str
    color: Color = Color.RED
    tags: List[str] = field(default_factory=list)
    code: int = field(default=7, init=False)


@dataclass
class Trip:
    start: Place
    stops: List[Place]
    note: Optional[str] = None

    def __post_init__(self):
        if self.note == "bad":
            raise ValueError("note may\nnot be bad")


@dataclass
class Node:
    name: str
    children: List[Node]


@dataclass
class Broken:
    what: Missing  # noqa: F821


@dataclass
class Clocked:
    when: complex


class Row(TypedDict):
    id: int


class Loose(Row, total=False):
    name: str


class Partly(TypedDict):
    a: int
    b: NotRequired[int]
    c: Annotated[NotRequired[int], "see"]  # noqa: F821, UP037


def parameters(function):
    return tools._function_tool(function)["function"]["parameters"]


def called(function, arguments):
    """What a function gives for a model's arguments."""
    tool = tools._function_tool(function)["function"]
    call = llmlite.ToolCall("call_1", tool["name"], arguments, "")
    return function(**tools._fitted_arguments(call, tool["parameters"]))


def schema_of(hint, default=dataclasses.MISSING):
    """The schema of one parameter that has this annotation."""
    def take(x):
        """Take it."""
    take.__annotations__ = {"x": hint}
    if default is not dataclasses.MISSING:
        take.__defaults__ = (default,)
    return parameters(take)["properties"]["x"]


def read(hint, value):
    """A value as a function with this annotation gets it."""
    def take(x):
        return x
    take.__annotations__ = {"x": hint}
    return called(take, {"x": value})


STRING, NULL = {"type": "string"}, {"type": "null"}
PLACE = {"type": "object", "additionalProperties": False, "required": ["city"], "properties": {
    "city": STRING, "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
    "tags": {"type": "array", "items": STRING}}}


def test_a_function_becomes_a_tool_dict():
    """Name, first paragraph, types, descriptions, defaults; annotations are strings here (the __future__ import)."""
    def weather(city: str, days: int = 3, *, unit: Literal["C", "F"] = "C") -> str:
        """Look the weather up,
        for some days.

        More that the model need not read.

        Args:
            city: The city,
                in English.
            unit (str, optional): Celsius or Fahrenheit.
        """
    assert tools._function_tool(weather) == {"type": "function", "function": {
        "name": "weather", "description": "Look the weather up, for some days.", "parameters": {
            "type": "object", "additionalProperties": False, "required": ["city"], "properties": {
                "city": {"type": "string", "description": "The city, in English."},
                "days": {"type": "integer", "default": 3},
                "unit": {"type": "string", "enum": ["C", "F"], "description": "Celsius or Fahrenheit.", "default": "C"},
            }}}}


def test_a_function_without_docstring_or_parameters():
    """No description is sent then, and the parameters are a closed, empty object."""
    def now():
        pass
    assert tools._function_tool(now)["function"] == {"name": "now", "parameters": {
        "type": "object", "properties": {}, "required": [], "additionalProperties": False}}
    assert called(now, {}) is None


@pytest.mark.parametrize("doc", [
    "Add.\n\n    Args:\n        a (int): first\n            one: really\n\n            here\n        b: second\n"
    "    Returns:\n        c: third",
    "Add.\n\n    Parameters\n    ----------\n    a : int\n        first one: really\n\n        here\n    b, d\n"
    "        second\n\n    Returns\n    -------\n    c : int\n        third",
    "Add.\n    :param int a: first one:\n        really here\n    :param b: second\n    :returns: third",
    "Add.\nParameters:\n    a: first one: really here\n    *b: second\n    not an item\nRaises:\n    c: third"])
def test_docstrings_in_three_styles(doc):
    """Google, NumPy and reST name the same parameters; what a section on returns says is nobody's description."""
    def add(a, b, c=None):
        pass
    add.__doc__ = doc
    tool = tools._function_tool(add)["function"]
    said = {name: " ".join(schema.get("description", "-").split()) for name, schema in
            tool["parameters"]["properties"].items()}
    assert tool["description"] == "Add."
    assert said["a"].replace("one: really", "one really").replace(":", "") == "first one really here"
    assert (said["b"].split(" ")[0], said["c"]) == ("second", "-")


def test_a_docstring_that_starts_with_its_parameters():
    """Then there is no description, rather than a wrong one."""
    def add(a):
        """:param a: the number"""
    tool = tools._function_tool(add)["function"]
    assert "description" not in tool
    assert tool["parameters"]["properties"] == {"a": {"description": "the number"}}


@pytest.mark.parametrize("hint, schema", [
    (str, STRING), (int, {"type": "integer"}), (float, {"type": "number"}), (bool, {"type": "boolean"}), (None, NULL),
    (Any, {}), (object, {}), (UserId, STRING), (OwnerId, STRING),
    (Optional[str], {"anyOf": [STRING, NULL]}), (Union[int, List[str]], {"anyOf": [
        {"type": "integer"}, {"type": "array", "items": STRING}]}), (Union[int, Any], {}),
    (Literal["a", 1], {"type": ["string", "integer"], "enum": ["a", 1]}),
    (Color, {"type": "string", "enum": ["red", "blue"]}), (Level, {"type": "integer", "enum": [1, 2]}),
    (list, {"type": "array", "items": {}}), (List, {"type": "array", "items": {}}),
    (Sequence[int], {"type": "array", "items": {"type": "integer"}}), (Set[str], {"type": "array", "items": STRING}),
    (Tuple[str, ...], {"type": "array", "items": STRING}), (tuple, {"type": "array", "items": {}}),
    (FrozenSet[str], {"type": "array", "items": STRING}),
    (dict, {"type": "object", "additionalProperties": True}), (Dict, {"type": "object", "additionalProperties": True}),
    (Mapping[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
    (Place, PLACE), (List[Place], {"type": "array", "items": PLACE}),
    (Loose, {"type": "object", "additionalProperties": False, "properties": {"id": {"type": "integer"}, "name": STRING},
             "required": ["id"] if sys.version_info >= (3, 9) else []})], ids=named)
def test_annotations_as_json_schema(hint, schema):
    """Every annotation that is promised, alone and inside a list.  (3.8's TypedDict forgets its base's total.)"""
    assert schema_of(hint) == schema
    assert schema_of(List[hint])["items"] == schema


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the syntax is of Python 3.10")
def test_annotations_in_new_syntax():
    """X | Y, list[T] and kin, as objects and as strings."""
    def take(a: int | None, b: list[str] | dict[str, int], c: set[str] = frozenset(), d: int | str = 1):
        pass
    schemas = parameters(take)["properties"]
    assert schemas["a"] == schema_of(int | None) == {"anyOf": [{"type": "integer"}, NULL]}
    assert schemas["b"] == schema_of(list[str] | dict[str, int]) == {"anyOf": [{"type": "array", "items": STRING}, {
        "type": "object", "additionalProperties": {"type": "integer"}}]}
    assert schemas["c"] == {"type": "array", "items": STRING}, "a default that JSON cannot say is not sent"
    assert schemas["d"] == {"anyOf": [{"type": "integer"}, STRING], "default": 1}
    assert read(set[str], ["a"]) == {"a"}


@pytest.mark.skipif(Annotated is None, reason="neither typing nor typing_extensions has it")
def test_annotated_describes():
    """The first str in Annotated is the description, before the docstring's; other notes are left alone."""
    def take(y: List[Annotated[str, "a tag"]], x: Annotated[int, [5], "how many"] = None):  # noqa: F722
        """Take.

        :param x: unread
        """
    assert parameters(take)["properties"] == {
        "x": {"anyOf": [{"type": "integer", "description": "how many"}, NULL], "default": None},
        "y": {"type": "array", "items": {"type": "string", "description": "a tag"}}}
    assert read(Annotated[Color, 5], "red") is Color.RED


@pytest.mark.skipif(NotRequired is None, reason="neither typing nor typing_extensions has it")
def test_typed_dict_with_required_keys():
    """Required and NotRequired decide, inside Annotated too, also where annotations are strings; else `total` does."""
    kinds = (TypedDict("Kind", {"a": int, "b": NotRequired[int], "c": Annotated[NotRequired[int], "see"]}),  # noqa: F821
             TypedDict("Kind", {"a": Required[int], "b": int, "c": Annotated[int, "see"]}, total=False))  # noqa: F821
    for kind in (*kinds, Partly):
        assert schema_of(kind)["required"] == ["a"]
        assert schema_of(kind)["properties"]["c"] == {"type": "integer", "description": "see"}
        assert read(kind, {"a": 1}) == {"a": 1}
        with pytest.raises(TypeError, match="^take\\(\\): x: missing 'a' and unexpected 'd'$"):
            read(kind, {"d": 1})


@pytest.mark.parametrize("hint, default, schema", [
    (str, "a", {"type": "string", "default": "a"}),
    (int, None, {"anyOf": [{"type": "integer"}, NULL], "default": None}),
    (Optional[int], None, {"anyOf": [{"type": "integer"}, NULL], "default": None}), (Any, None, {"default": None}),
    (Color, Color.BLUE, {"type": "string", "enum": ["red", "blue"], "default": "blue"}),
    (Tuple[int, ...], (1, 2), {"type": "array", "items": {"type": "integer"}, "default": [1, 2]}),
    (float, float("inf"), {"type": "number"}), (Any, object(), {})])
def test_defaults(hint, default, schema):
    """A default is in the schema where JSON can say it; a default of None allows null."""
    assert schema_of(hint, default) == schema


class Shop:
    """A shop."""

    def buy(self, item: str, count: int = 1) -> str:
        """Buy things."""
        return f"{count} {item}"

    @classmethod
    def open(cls, name: str) -> str:
        return cls.__name__ + name

    def __call__(self, question: str) -> str:
        """Ask the keeper."""
        return question.upper()


class Silent:
    """Says nothing."""

    def __call__(self, x: int) -> int:
        return x


def test_callables_of_every_kind():
    """Bound methods, class methods, objects with __call__, decorated and cached functions are described and called."""
    def noisy(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return "!" + function(*args, **kwargs)
        return wrapper

    shop = Shop()
    cases = [(shop.buy, "buy", "Buy things.", {"item": "pie", "count": 2}, "2 pie"),
             (Shop.open, "open", None, {"name": "s"}, "Shops"),
             (shop, "Shop", "Ask the keeper.", {"question": "a"}, "A"),
             (Silent(), "Silent", "Says nothing.", {"x": 1}, 1),
             (noisy(noisy(shop.buy)), "buy", "Buy things.", {"item": "pie"}, "!!1 pie"),
             (functools.lru_cache()(shop.buy), "buy", "Buy things.", {"item": "pie"}, "1 pie")]
    for function, name, description, arguments, result in cases:
        tool = tools._function_tool(function)["function"]
        assert (tool["name"], tool.get("description")) == (name, description)
        assert set(tool["parameters"]["properties"]) >= set(arguments)
        assert "self" not in tool["parameters"]["properties"]
        assert called(function, arguments) == result


def test_partial_hides_what_it_binds():
    """What functools.partial binds, a key say, is neither shown to the model nor taken from it."""
    def ask(token: str, place: pathlib.Path, /, question: str, *, key: str = "", depth: int = 1) -> str:
        """Ask."""
        return f"{token} {place} {question} {key} {depth}"

    inner = functools.partial(ask, "t", key="k1")
    inner.note = "keeps partial from merging the two"
    bound = functools.update_wrapper(functools.partial(inner, pathlib.Path("p"), key="k2"), ask)
    tool = tools._function_tool(bound)["function"]
    assert (tool["name"], tool["description"]) == ("ask", "Ask.")
    assert tool["parameters"]["properties"] == {"question": STRING, "depth": {"type": "integer", "default": 1}}
    assert called(bound, {"question": "q", "depth": 2}) == "t p q k2 2"
    with pytest.raises(TypeError, match="^ask\\(\\): unexpected 'key'$"):
        called(bound, {"question": "q", "key": "mine"})


async def later(x: int) -> int:
    return x


class Later:
    async def __call__(self, x: int) -> int:
        return x


@pytest.mark.parametrize("function, message", [
    (lambda x: x, "<lambda>(): providers take names of ASCII letters, digits, _ and -, 64 at most: use a def"),
    (Place, "tools has <class"), (5, "tools has 5: give a function or a tool dict"),
    (later, "later(): is async, this client is not"), (Later(), "Later(): is async, this client is not"),
    (print, "print(): "), (functools.partial(later, 1, 2), "later(): is async")])
def test_what_is_no_tool(function, message):
    """A lambda, a class, a number, a coroutine function, a builtin: TypeError at once, in one line."""
    with pytest.raises(TypeError) as caught:
        tools._function_tool(function)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_partial_that_does_not_fit():
    """A partial of more arguments than the function has cannot be called: TypeError says so when it is described."""
    with pytest.raises(TypeError, match=r"^give_back\(\): its parameters cannot be read \(too many"):
        tools._function_tool(functools.partial(give_back, 1, 2))


def test_parameters_that_no_model_can_give():
    """*args, **kwargs and positional-only parameters are refused, named."""
    def stars(a, *rest: int):
        pass

    def keywords(**options):
        pass

    def positional(a: int, /):
        pass
    for function, message in [
            (stars, "stars(): parameter rest: *rest: 'int' is variadic positional: a model gives arguments by name"),
            (keywords, "keywords(): parameter options: **options is variadic keyword: a model gives arguments by name"),
            (positional, "positional(): parameter a: a: 'int' is positional-only: a model gives arguments by name")]:
        with pytest.raises(TypeError) as caught:
            tools._function_tool(function)
        assert str(caught.value) == message


@pytest.mark.parametrize("hint, message", [
    (complex, "take(): parameter x: complex has no JSON form: use str, int, "),
    (pathlib.Path, "Path has no JSON form: use str, int, "),
    (Optional[List[bytes]], "take(): parameter x: bytes has no JSON form"),
    ([int], "take(): parameter x: [<class 'int'>] has no JSON form"),
    (Nowhere, "Nowhere has no JSON form"), (Odd, "Odd has no JSON form"),
    (Literal[b"x"], "Literal[b'x'] has no JSON form"),
    (Tuple[int, str], "Tuple[int, str] has no JSON form"), (Tuple[int], "Tuple[int] has no JSON form"),
    (Dict[int, str], "take(): parameter x: Dict[int, str]: the keys of a JSON object are str"),
    (Clocked, "take(): parameter x: Clocked.when: complex has no JSON form"),
    (Node, "take(): parameter x: Node.children: Node holds itself"),
    (Broken, "take(): parameter x: Broken: the annotation cannot be read (name 'Missing' is not defined)"),
    ("Missing", "take(): parameter x: Missing: the annotation cannot be read (name 'Missing' is not defined)"),
    ("int +", "take(): parameter x: int +: the annotation cannot be read ("),
    ("", "take(): parameter x: : the annotation cannot be read ("),
    ("1 / 0", "take(): parameter x: 1 / 0: the annotation cannot be read (division by zero)")])
def test_annotations_that_have_no_json_form(hint, message):
    """TypeError at once, in one line that names function, parameter and annotation."""
    for default in (dataclasses.MISSING, None):
        with pytest.raises(TypeError) as caught:
            schema_of(hint, default)
        assert message in str(caught.value)
        assert str(caught.value).startswith("take(): parameter x: ")
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.version_info >= (3, 10), reason="newer Pythons have it")
def test_new_syntax_on_an_old_python():
    """`int | None` as a string cannot be evaluated before 3.10: the error names the annotation and the Python."""
    with pytest.raises(TypeError, match=r"^take\(\): parameter x: int \| None: .*types that Python 3\.[89] has$"):
        schema_of("int | None")


def test_tool_dicts():
    """Dicts go through as they are, functions are described; a name may come once."""
    web, own = {"type": "web_search"}, {"type": "function", "function": {"name": "own", "strict": True}}
    tooled = tools._tool_dicts([web, web, own, give_back])
    assert tooled[0] is web
    assert tooled[2] is own
    assert tooled[3]["function"]["name"] == "give_back"
    for pair in ([give_back, give_back], [give_back, {"name": "give_back", "input_schema": {}}]):
        with pytest.raises(tools.ConfigurationError, match="^tools has 2 tools named 'give_back': a name may stand"):
            tools._tool_dicts(pair)
    for wrong in (give_back, web, "own"):
        with pytest.raises(tools.ConfigurationError, match="^tools is a (function|dict|str): give a list"):
            tools._tool_dicts(wrong)


def give_back(x: int) -> int:
    """Give back."""
    return x


def test_arguments_become_what_the_annotations_say():
    """Dataclasses, enums, and lists, dicts and unions of them are made; plain values stay as they are."""
    place = {"city": "Ulm", "color": "blue", "tags": ["old"]}
    made = Place("Ulm", Color.BLUE, ["old"])
    for hint, value, result in [
            (Place, place, made), (List[Place], [place], [made]), (Dict[str, Place], {"a": place}, {"a": made}),
            (Optional[Place], place, made), (Optional[Place], None, None), (Union[Color, Place], place, made),
            (Trip, {"start": place, "stops": [place]}, Trip(made, [made])), (Level, 2, Level.HIGH),
            (Tuple[Color, ...], ["red"], (Color.RED,)), (Set[str], ["a", "a"], {"a"}),
            (FrozenSet[int], [1], frozenset([1])),
            (float, 3, 3), (int, 3.0, 3), (Level, 2.0, Level.HIGH), (Literal[3], 3.0, 3), (Any, place, place),
            (Union[Place, Any], place, made), (Dict[str, Union[int, Any]], {"a": 2.0}, {"a": 2}),
            (Literal["a", None], None, None), (bool, True, True),
            (Loose, {"id": 1, "name": "n"}, {"id": 1, "name": "n"}), (dict, {"x": [1]}, {"x": [1]})]:
        given = read(hint, value)
        assert given == result
        assert type(given) is type(result)
    assert type(read(int, 3.0)) is type(read(Literal[3], 3.0)) is int


def test_a_union_takes_the_first_type_that_can_be_made():
    """What fits a dataclass and is refused by it goes to the next type; what no type takes is named once a type."""
    calm, wild = ({"start": {"city": "Ulm"}, "stops": [], "note": note} for note in ("good", "bad"))
    assert read(List[Union[Trip, Dict[str, Any]]], [calm, wild]) == [Trip(Place("Ulm"), [], "good"), wild]
    with pytest.raises(TypeError, match=r"x\[0\]: note may not be bad; or x\[0\].start: {'city': 'Ulm'} is not of"):
        read(List[Union[Trip, Dict[str, str]]], [wild])


def test_arguments_are_the_functions_own():
    """A function that changes the lists and dicts it is given changes nothing of the call, which is in the history."""
    given = {"x": {"a": [2.0, 1]}}

    def take(x: Dict[str, List[int]]):
        x["a"].sort()
        x["b"] = []
        return x
    assert called(take, given) == {"a": [1, 2], "b": []}
    assert given == {"x": {"a": [2.0, 1]}}


@pytest.mark.parametrize("hint, value, message", [
    (int, "5", "x: '5' is not of type integer"), (int, True, "x: True is not of type integer"),
    (int, 1.5, "x: 1.5 is not of type integer"), (str, None, "x: None is not of type string"),
    (Color, "green", "x: 'green' is not one of 'red', 'blue'"), (Level, True, "x: True is not one of 1, 2"),
    (List[Color], ["red", 5], "x[1]: 5 is not one of 'red', 'blue'"), (List[int], "ab", "x: 'ab' is not of type array"),
    (Dict[str, int], {"a": ""}, "x.a: '' is not of type integer"), (dict, [], "x: [] is not of type object"),
    (Place, {"color": "red", "size": 1}, "x: missing 'city' and unexpected 'size'"),
    (Place, {"city": "Ulm", "code": 8}, "x: unexpected 'code'"), (Place, "Ulm", "x: 'Ulm' is not of type object"),
    (Trip, {"start": {"city": 5}, "stops": []}, "x.start.city: 5 is not of type string"),
    (Trip, {"start": {"city": "a"}, "stops": [], "note": "bad"}, "x: note may not be bad"),
    (Optional[int], "a", "x: 'a' is not of type integer"), (Set[Any], [[]], "x: unhashable type: 'list'"),
    (Union[int, bool], "a" * 80, "x: '" + "a" * 56 + "... is not of type integer; or x: '" + "a" * 56 + "... is not of "
     "type boolean")])
def test_arguments_that_do_not_fit(hint, value, message):
    """TypeError in one short line that says where and what, for the model to mend."""
    with pytest.raises(TypeError) as caught:
        read(hint, value)
    assert str(caught.value) == "take(): " + message


def test_arguments_missing_unexpected_or_none_at_all():
    """The names are checked before the call; what the function itself raises comes through as it is."""
    def boom(a: int, b: int = 0):
        raise ValueError("mine")
    for arguments, message in [({}, "missing 'a'"), ({"b": 1, "c": 2}, "missing 'a' and unexpected 'c'"),
                               ([1], "[1] is not of type object"), (None, "None is not of type object")]:
        with pytest.raises(TypeError) as caught:
            called(boom, arguments)
        assert str(caught.value) == "boom(): " + message
    with pytest.raises(ValueError, match="^mine$"):
        called(boom, {"a": 1})


class Model:
    """Looks like a pydantic model."""

    @classmethod
    def model_json_schema(cls):
        return {"type": "object", "title": cls.__name__}

    @classmethod
    def model_validate_json(cls, text):
        if "x" not in text:
            raise ValueError("1 error for Model\nx\n  Field required")
        return ("model", text)


def test_schema_dicts():
    """A JSON schema, dict, a dataclass, a TypedDict and a pydantic look-alike give a name and a JSON schema."""
    given = {"type": "array", "title": "List of Things[int]"}
    assert tools._schema_dict(given) == ("List_of_Things_int", given)
    assert tools._schema_dict({"title": "ö" * 70}) == ("answer", {"title": "ö" * 70})
    assert tools._schema_dict(dict) == ("answer", None)
    assert tools._schema_dict(Model) == ("Model", {"type": "object", "title": "Model"})
    name, schema = tools._schema_dict(Trip)
    place = {"type": "object", "additionalProperties": False, "required": ["city", "color", "tags"], "properties": {
        "city": STRING, "color": {"type": "string", "enum": ["red", "blue"]},
        "tags": {"type": "array", "items": STRING}}}
    assert (name, schema) == ("Trip", {
        "type": "object", "additionalProperties": False, "required": ["start", "stops", "note"], "properties": {
            "start": place, "stops": {"type": "array", "items": place}, "note": {"anyOf": [STRING, NULL]}}})
    assert sorted(tools._schema_dict(Loose)[1]["required"]) == ["id", "name"], "also what is not required of Python"


@pytest.mark.parametrize("schema", [list, "Trip", None, int, Color, List[Place], Place("a"), Model()], ids=named)
def test_what_is_no_schema(schema):
    """Anything else is a TypeError that lists what is."""
    for call in (lambda: tools._schema_dict(schema), lambda: tools._parse_as(schema, "{}")):
        with pytest.raises(TypeError, match="^schema is .*: give a JSON-schema dict, dict, a dataclass, a Ty"):
            call()


def test_a_schema_field_that_has_no_json_form():
    """The error names the class and the field."""
    with pytest.raises(TypeError, match="^schema: Clocked.when: complex has no JSON form"):
        tools._schema_dict(Clocked)


def test_strict_mode():
    """Schemas of dataclasses are strict unless they hold Any or open dicts; others only if they close every object."""
    closed = {"type": "object", "properties": {"default": {"type": "string"}}, "required": ["default"],
              "additionalProperties": False}
    assert tools._is_strict(tools._schema_dict(Trip)[1])
    assert tools._is_strict(closed)
    assert tools._is_strict({"$defs": {"a": closed}, "anyOf": [{"$ref": "#/$defs/a"}]})
    for kind in (Any, Dict[str, int], dict, List[dict]):
        assert not tools._is_strict(tools._schema_dict(dataclasses.make_dataclass("Open", [("x", kind)]))[1])
    for change in ({"required": []}, {"additionalProperties": True}, {"default": {}}, {"default": 1},
                   {"properties": {"default": {}}}):
        assert not tools._is_strict({**closed, **change})


def test_parsing_into_a_dataclass():
    """An instance, nested, enums made; a field left out takes its default; a fence and white space do no harm."""
    text = '{"start": {"city": "Ulm", "color": "blue"}, "stops": [{"city": "Bern"}]}'
    trip = Trip(Place("Ulm", Color.BLUE), [Place("Bern")])
    for answer in (text, f"\n {text} \n", f"```json\n{text}\n```", f"  ```\n{text}```\n", f"```JSON \r\n{text}\r\n```"):
        assert tools._parse_as(Trip, answer) == trip
    assert tools._parse_as(Loose, '{"id": 1, "name": "a"}') == {"id": 1, "name": "a"}


@pytest.mark.parametrize("schema, text, message", [
    (Place, "", "the answer is empty"), (Place, "```json\n```", "the answer is empty"),
    (Place, "Sure! {}", "not JSON: Expecting value: line 1 column 1 (char 0)"),
    (Place, "```json\n{}\n``` Done.", "not JSON: "), (Place, "[" * 100000, "not JSON: "),
    (Place, "{}", "missing 'city'"), (Place, '{"city": "a", "x": 1}', "unexpected 'x'"),
    (Place, "[]", "[] is not of type object"),
    (Place, '{"city": "a", "tags": [1]}', "tags[0]: 1 is not of type string"),
    (dict, "[1]", "[1] is not of type object"), ({"type": "object"}, "3", "3 is not of type object"),
    ({"type": "integer"}, "true", "True is not of type integer"),
    ({"type": ["string", "null"]}, "3", "3 is not of type string or null"),
    ({"type": "object", "required": ["a", "b"]}, '{"b": 1, "c": 1}', "missing 'a'"),
    (Model, "{}", "1 error for Model x Field required")])
def test_answers_that_do_not_fit(schema, text, message):
    """ValueError in one line that says what does not fit."""
    with pytest.raises(ValueError) as caught:
        tools._parse_as(schema, text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schema, text, value", [
    (dict, '{"a": [1]}', {"a": [1]}), ({}, "3", 3), ({"type": "array"}, "```json\n[1]\n```", [1]),
    ({"type": "integer"}, "2.0", 2), ({"type": "number"}, "2", 2), ({"type": ["string", "null"]}, "null", None),
    ({"required": ["a"]}, "[]", []), ({"type": "object", "required": ["a"]}, '{"a": 1, "b": 2}', {"a": 1, "b": 2}),
    (Model, '```json\n{"x": 1}\n```', ("model", '{"x": 1}'))])
def test_answers_that_fit(schema, text, value):
    """JSON of the type that the schema's top allows, with its required keys; a pydantic class reads the text itself."""
    assert tools._parse_as(schema, text) == value


def url_of(image):
    part = tools._image_part(image)
    assert set(part) == {"type", "image_url"}
    assert part["type"] == "image_url"
    assert set(part["image_url"]) == {"url"}
    return part["image_url"]["url"]


@pytest.mark.parametrize("url", ["https://a.example/b.png?c", "HTTP://a.example", "data:image/png;base64,AAAA"])
def test_an_image_by_url(url):
    """URLs go through as they are."""
    assert url_of(url) == url


@pytest.mark.parametrize("kind, data", [
    ("png", PNG), ("jpeg", b"\xff\xd8\xff\xe0\n"), ("gif", b"GIF89a.."), ("gif", b"GIF87a"),
    ("webp", b"RIFF\n\x00\x00\x00WEBPVP8 ")])
def test_an_image_by_bytes_or_path(kind, data, tmp_path):
    """The type comes from the bytes, not from the name; the same data URI from bytes, a str path and a Path."""
    path = tmp_path / "picture.txt"
    path.write_bytes(data)
    expected = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    assert [url_of(image) for image in (data, bytearray(data), memoryview(data), path, str(path))] == [expected] * 5


@pytest.mark.parametrize("data, kind", [
    (b"%PDF-1.7", "PDF"), (b"BM6\0", "BMP"), (b"II*\0", "TIFF"), (b"\0\0\0\x18ftypheic", "HEIC"),
    (b"\0\0\0\x18ftypavif", "AVIF"), (b'<?xml version="1.0"?>\n<svg>', "SVG"), (b"<!doctype HTML>", "HTML"),
    (b"", "empty"), (b"\x89PNG", r"of unknown type \(b'\\x89PNG'\)")])
def test_what_is_no_image(data, kind, tmp_path):
    """Bytes that models take not are refused by name before anything is sent, with the path if they came from one."""
    with pytest.raises(tools.ConfigurationError, match=f"^image is {kind}: models take PNG, JPEG, GIF and WebP$"):
        tools._image_part(data)
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(tools.ConfigurationError, match=f"^image '.*x.png' is {kind}: "):
        tools._image_part(tmp_path / "x.png")
    for kept in (bytearray(data), memoryview(data)):
        with pytest.raises(llmlite.ConfigurationError, match=f"^image is {kind}: "):
            llmlite.user("Look", images=[kept])


def test_an_image_that_is_not_there(tmp_path, monkeypatch):
    """A missing file, a folder, no file name and another type are ConfigurationErrors that name them."""
    monkeypatch.chdir(tmp_path)
    gone = "image 'gone.png': No such file or directory: give a path, a URL or bytes"
    for image, message in [("gone.png", gone), (pathlib.Path("gone.png"), gone),
                           (".", "image '.': Is a directory: give a path, a URL or bytes"),
                           ("a\0b", "image 'a\\x00b': embedded null byte: give a path, a URL or bytes"),
                           (5, "image is a int: give a path, a URL or bytes")]:
        with pytest.raises(tools.ConfigurationError) as caught:
            tools._image_part(image)
        assert str(caught.value) == message


def test_schemas_are_json():
    """What comes out can be sent: no enum members, no tuples."""
    def take(place: Place, level: Level = Level.LOW, pair: Tuple[int, ...] = (1,)):
        pass
    tool = tools._function_tool(take)
    assert json.loads(json.dumps(tool)) == tool


TREE = {"$defs": {"node": {"type": "object", "required": ["name"], "additionalProperties": False, "properties": {
    "name": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}},
    "$ref": "#/$defs/node"}
TUPLE = {"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}
ODD_KEYS = {"$defs": {"a/b~c": {"type": "string"}, "100%": {"type": "integer"}},
            "properties": {"x": {"$ref": "#/$defs/a~1b~0c"}, "y": {"$ref": "#/$defs/100%25"}}}
FITS = [
    ({"enum": ["a", 1, None, [True], {"b": 1}]}, ['"a"', "1", "1.0", "null", "[true]", '{"b": 1.0}'],
     {"true": "True is not one of 'a', 1, None", "[1]": "[1] is not", '{"b": true}': "{'b': True} is not",
      '{"b": 1, "c": 1}': "{'b'", "[true, true]": "[True, True] is not one of"}),
    ({"const": 1}, ["1", "1.0"], {"true": "True is not 1", "2": "2 is not 1", '"1"': "'1' is not 1"}),
    ({"const": None}, ["null"], {"0": "0 is not None"}),
    ({"enum": [[1, {"a": 2}], True, 0]}, ["[1.0, {\"a\": 2}]", "true", "0", "0.0"], {"1": "1 is", "false": "False is"}),
    ({"properties": {"": {"type": "string"}}}, ['{"": "a"}'], {'{"": 1}': "1 is not of type string"}),
    ({"oneOf": []}, ["1"], {}), ({"anyOf": [{"type": "null"}, False]}, ["null"], {"1": "nothing may stand here"}),
    ({"type": "array", "items": {"type": "object", "required": ["a"]}}, ["[]", '[{"a": 1}]'],
     {'[{"a": 1}, {}]': "[1]: missing 'a'", '[1]': "[0]: 1 is not of type object"}),
    ({"properties": {"a": {"properties": {"b": {"type": ["integer", "null"]}}}}},
     ["3", "{}", '{"a": {"b": 2.0}}', '{"a": {"b": null}}', '{"c": 1}'],
     {'{"a": {"b": 2.5}}': "a.b: 2.5 is not of type integer or null", '{"a": {"b": true}}': "a.b: True is not of"}),
    ({"properties": {"a": {}}, "additionalProperties": False}, ["[1]", '{"a": 1}', "{}"],
     {'{"a": 1, "b": 2}': "unexpected 'b'"}),
    ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, ['{"a": 1, "b": "c"}'],
     {'{"a": 1, "b": 2}': "b: 2 is not of type string"}),
    ({"patternProperties": {"^x": {}}, "additionalProperties": False}, ['{"x1": 1}', '{"y": 1}'], {}),
    ({"items": False}, ["[]", "{}"], {"[1]": "[0]: nothing may stand here, but there is 1"}),
    ({"properties": {"a": True, "b": False}}, ['{"a": 1}'], {'{"b": 1}': "b: nothing may stand here"}),
    (TUPLE, ['["a", 1, 2]', '["a"]', '[1]'], {'["a", "b"]': "[1]: 'b' is not of type integer"}),
    ({"items": [{"type": "string"}, {"type": "integer"}]}, ['["a"]', '["a", 1, null]'],
     {'["a", "b"]': "[1]: 'b' is not of type integer"}),
    ({"anyOf": [{"type": "null"}, {"type": "object", "required": ["a"]}]}, ["null", '{"a": 1}'],
     {"{}": "missing 'a'", "1": "1 is not of type object"}),
    ({"anyOf": [{"type": "null"}]}, ["null"], {"1": "1 is not of type null"}),
    ({"anyOf": [{"type": "string"}, {"properties": {"a": {"type": "integer"}}, "type": "object"}]}, ['"a"', "{}"],
     {'{"a": "b"}': "{'a': 'b'} is not of type string; or a: 'b' is not of type integer"}),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ["1.5"],
     {"1": "1 fits 2 of the schemas of which it may fit one", '"a"': "'a' is not of type integer; or 'a' is not of"}),
    ({"allOf": [{"required": ["a"]}, {"required": ["b"]}]}, ['{"a": 1, "b": 2}', "1"], {'{"a": 1}': "missing 'b'"}),
    (TREE, ['{"name": "a"}', '{"name": "a", "kids": [{"name": "b", "kids": []}]}'],
     {'{"name": "a", "kids": [{"name": "b", "kids": [{}]}]}': "kids[0].kids[0]: missing 'name'",
      '{"name": "a", "kids": [{"name": "b", "age": 1}]}': "kids[0]: unexpected 'age'"}),
    ({"type": "array", "items": {"anyOf": [{"type": "string"}, {"$ref": "#"}]}}, ['[["a"], [["b"], []]]'],
     {"[[1]]": "[0]: "}),
    (ODD_KEYS, ['{"x": "a", "y": 1}'], {'{"x": 1}': "x: 1 is not of type string", '{"y": ""}': "y: '' is not of"}),
    ({"anyOf": [{"type": "integer"}], "properties": {"a": {"$ref": "#/anyOf/0"}}}, ["1"], {'"a"': "'a' is not of"}),
    ({"$ref": "other.json#/a"}, ["1"], {}), ({"$ref": "#anchor"}, ["1"], {}),
    ({"type": "object", "properties": {"a": {"type": "string", "nullable": True}, "b": {"type": "string"},
                                       "c": {"enum": ["x"], "nullable": True}}, "nullable": False},
     ['{"a": null, "c": null}', '{"a": "b"}'],
     {'{"a": 1}': "a: 1 is not of type string", '{"b": null}': "b: None is not of type string", "null": "None is not"}),
    ({"type": "OBJECT", "properties": {"a": {"type": "STRING"}, "b": {"type": ["integer", "decimal"]}}},
     ['{"a": "b"}', '{"b": 1.5}', "1"], {}),
    # what is not looked at
    ({"type": "string", "pattern": "^a", "minLength": 9, "format": "date"}, ['"b"'], {}),
    ({"minimum": 3, "not": {"type": "integer"}, "if": {"type": "integer"}, "then": False}, ["1"], {}),
]


@pytest.mark.parametrize("schema, good, bad", FITS, ids=[json.dumps(schema)[:50] for schema, _, _ in FITS])
def test_keywords_of_a_schema(schema, good, bad):
    """Each keyword that is promised: what fits, and what does not, with where and why, in one line."""
    for text in good:
        assert tools._parse_as(schema, text) == json.loads(text)
    for text, message in bad.items():
        with pytest.raises(ValueError) as caught:
            tools._parse_as(schema, text)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


def nested(depth, make):
    schema = {}
    for _ in range(depth):
        schema = make(schema)
    return schema


BROKEN = [
    {"type": 5}, {"type": {}}, {"type": []}, {"type": ["string", 5, {}]}, {"type": "strng"}, {"enum": 5}, {"enum": []},
    {"required": "a"}, {"required": [{}, 5, None]}, {"properties": 5}, {"properties": {"a": 5}},
    {"additionalProperties": "x"}, {"items": "x"}, {"items": [5]}, {"prefixItems": 5, "items": {}}, {"anyOf": {}},
    {"anyOf": []}, {"anyOf": [5, "x", []]}, {"oneOf": 5}, {"allOf": "x"}, {"$ref": 5}, {"$ref": "#/nowhere"},
    {"$ref": "#/$ref"}, {"$ref": "#/"}, {"$ref": ""}, {"$ref": "#/a/0/9999999999", "a": [[1]]}, {"$ref": "#"},
    {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, {"oneOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#"}}},
    {"$defs": {str(at): {"allOf": [{"$ref": f"#/$defs/{to}"} for to in range(60)]} for at in range(60)},
     "$ref": "#/$defs/0"},
    {"$defs": {str(at): {"anyOf": [{"$ref": f"#/$defs/{to}"} for to in range(60)] + [False]} for at in range(60)},
     "anyOf": [{"$ref": "#/$defs/0"}, {"type": "string"}]},
    {"properties": {"$ref": {"type": "integer"}, "enum": {"enum": [1]}}}, {"": {}}, {"title": 5},
    nested(90, lambda inner: {"properties": {"a": inner}}), nested(5000, lambda inner: {"allOf": [inner]}),
    nested(5000, lambda inner: {"items": inner}),
]
DEEP = ("[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300)


@pytest.mark.parametrize("schema", BROKEN, ids=map(str, range(len(BROKEN))))
@pytest.mark.parametrize("text", ["3", '{"a": {"a": 1}}', "[[], 1]", *DEEP], ids=["3", "dict", "list", "deep", "far"])
def test_broken_and_hostile_schemas(schema, text):
    """Whatever stands in a schema, an answer fits or is a ValueError in one line, at once."""
    try:
        assert tools._parse_as(schema, text) == json.loads(text)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) <= 300


def test_a_dear_answer():
    """An answer is held against a schema at a cost that does not grow with its depth times its size."""
    def cost(size):  # of holding it against schemas; of just reading it
        text = "[" * 80 + json.dumps("x" * size) + "]" * 80
        start = time.process_time()
        value = json.loads(text)
        between = time.process_time()
        assert tools._parse_as({"anyOf": [{"type": "string"}, arrays]}, text) == value
        with pytest.raises(ValueError, match="is not of type integer"):
            tools._parse_as({"anyOf": [{"type": "integer"}, arrays]}, text)
        return time.process_time() - between, between - start

    arrays = {"type": "array", "items": {"$ref": "#"}}
    depth, (both, read) = cost(20)[0], cost(2_000_000)  # the depth alone is dear where each line is traced
    assert both < depth + 10 * read + 0.1


def test_an_answer_of_many_items():
    """What an item costs does not grow with the choices it has, and is a small multiple of reading it."""
    def cost(schema):
        start = time.process_time()
        assert len(tools._parse_as({"items": schema}, text)) == 5000
        return time.process_time() - start

    text = json.dumps(list(range(1, 1001)) * 5)
    assert cost({"enum": list(range(1, 1001))}) < 5 * cost({"type": "integer"}) + 0.1


@pytest.mark.timeout(10)
def test_a_schema_that_says_the_same_twice_at_each_level():
    """A part of a schema that stands in two places is held against a value once: else the cost doubles a level."""
    schema, value = {"type": "integer"}, 1
    for _ in range(40):
        inner = {"type": "object", "properties": {"a": schema}}
        schema, value = {**inner, "anyOf": [inner, {"type": "null"}]}, {"a": value}
    assert tools._parse_as(schema, json.dumps(value)) == value
    with pytest.raises(ValueError, match="is not of type integer"):
        tools._parse_as(schema, json.dumps(value).replace("1", '"x"'))


@pytest.mark.parametrize("value", [
    [], {}, [1], [1, [2, "a"], {}], {"a": None, "b": [True], 3: 1.5}, "x" * 58, "x" * 59, "x" * 100, ["x" * 100, 1],
    [[]], list(range(100)), dict.fromkeys("abcdefghijklmnop"), (1, 2), b"x", {"x" * 100: 1}, "'", "\n" * 70], ids=str)
def test_how_values_are_shown(value):
    """As repr has it, and no more than 60 characters."""
    text = repr(value)
    shown = tools._shown(value)
    assert shown == text if len(text) <= 60 else shown.endswith("...") and len(shown) <= 60
    assert shown[:50] == text[:50]


ALIASES = """
from dataclasses import dataclass
from typing import Annotated, Optional
type Name = str
type Names = list[Name]
type Pair[T] = dict[Name, list[T]]
type Much = Annotated[Name | int, "much"]
type Loop = Loop
type Tree = dict[str, Tree | int]
type Gone = Missing
type Same[T] = T

@dataclass
class Person:
    name: Name
    names: Names
    pair: Optional[Pair[int]] = None

def greet(person: Person, much: Much, how: Name = "hi"):
    return person, much, how

def loop(x: Loop): pass
def tree(x: list[Tree]): pass
def gone(x: Gone): pass
def same(x: Same[int]): pass
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is of Python 3.12")
@pytest.mark.parametrize("first", ["", "from __future__ import annotations"], ids=["objects", "strings"])
def test_type_aliases(monkeypatch, first):
    """`type X = ...` stands for what it names: in tools, in dataclasses, with parameters, in keys and Annotated."""
    module = types.ModuleType("aliases")
    monkeypatch.setitem(sys.modules, "aliases", module)
    space = vars(module)
    exec(compile(first + ALIASES, "aliases", "exec", dont_inherit=True), space)
    names, numbers = {"type": "array", "items": STRING}, {"type": "array", "items": {"type": "integer"}}
    pair = {"anyOf": [{"type": "object", "additionalProperties": numbers}, NULL], "default": None}
    assert parameters(space["greet"])["properties"] == {
        "person": {"type": "object", "additionalProperties": False, "required": ["name", "names"],
                   "properties": {"name": STRING, "names": names, "pair": pair}},
        "much": {"anyOf": [STRING, {"type": "integer"}], "description": "much"}, "how": {**STRING, "default": "hi"}}
    person = {"name": "a", "names": ["b"], "pair": {"c": [1]}}
    assert called(space["greet"], {"person": person, "much": 2}) == (space["Person"](**person), 2, "hi")
    assert tools._parse_as(space["Person"], json.dumps(person)) == space["Person"](**person)
    for name, words in [("loop", "Loop holds itself"), ("tree", "Tree holds itself"), ("gone", "the alias Gone cannot"),
                        ("same", "the alias Same[int] cannot be read")]:
        with pytest.raises(TypeError, match=f"^{name}.*{words}".replace("[int]", r"\[int\]")):
            tools._function_tool(space[name])
