"""The mutants of a module: each is one small change of its text, and the lines whose tests can notice it.

Not mutated: annotations, docstrings, type aliases, `__all__` and the like, what coverage is told to leave out (`pragma:
no cover`, the conditions of `pragma: no branch`), and wording: f-strings, strings of two words or more, what stands in
a `raise`, and formats of the log.  A line of the log may be lost as a whole, for it is promised; not how it is put.
"""
import ast
import bisect
import functools
import itertools
import re
from collections import defaultdict
from typing import FrozenSet, NamedTuple

SWAPS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is": "is not", "is not": "is",
         "in": "not in", "not in": "in", "and": "or", "or": "and", "+": "-", "-": "+", "*": "+", "/": "*",
         "//": "/", "**": "*", "%": "+", "<<": ">>", ">>": "<<", "|": "&", "&": "|"}
OPERATOR = re.compile(r"is\s+not\b|not\s+in\b|\b(?:is|in|and|or)\b|<<|>>|[<>=!]=|\*\*|//|[-+*/%<>|&]")
WORDING = re.compile(r"\w[,:;.]? \w")
UNTOUCHED = (ast.Import, ast.ImportFrom, ast.Pass, ast.JoinedStr)
FUNCTIONS = (ast.FunctionDef, ast.Lambda)


class Mutant(NamedTuple):
    start: int  # bytes of the source
    end: int
    line: int
    new: bytes
    where: str  # the function or class
    lines: FrozenSet[int]  # whose tests can notice it; empty for what any may

    def applied(self, source):
        return source[:self.start] + self.new + source[self.end:]

    def described(self, source):
        """The change in one line, the same wherever in the file it stands."""
        old, new = (" ".join(text.decode().split()) for text in (source[self.start:self.end], self.new))
        around = lines_of(source)[self.line - 1].decode().strip()
        return f"{self.where} | {around[:90]} | {old[:70]} -> {new[:70]}"


@functools.lru_cache(maxsize=1)
def lines_of(source):
    return source.splitlines()


class Finder:
    """A walk over a module that gathers `found`."""

    def __init__(self, source):
        self.source, self.lines, self.found = source, source.splitlines(keepends=True), []
        self.begins = [0, *itertools.accumulate(map(len, self.lines))]
        self.words = defaultdict(list)  # the lines that a word stands on
        for number, line in enumerate(self.lines, 1):
            for word in set(re.findall(r"[^\W\d]\w*", line.decode())):
                self.words[word].append(number)
        tree = ast.parse(source)
        inside = [body_of(node) for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
        self.inside, self.bound = frozenset().union(*inside), defaultdict(set)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                for number in range(node.lineno, node.end_lineno + 1):
                    self.bound[number] |= bound_by(node)
        for statement in tree.body:
            self.walk(statement, [], None)

    def start(self, node):
        return self.begins[node.lineno - 1] + node.col_offset

    def end(self, node):
        return self.begins[node.end_lineno - 1] + node.end_col_offset

    def walk(self, node, parents, lines):
        """Gather the mutants of a node and of those inside; `lines` are those that notice the statement around."""
        if isinstance(node, UNTOUCHED) or is_left_out(node, parents):
            return
        if isinstance(node, ast.stmt):
            if b"pragma: no cover" in self.lines[node.lineno - 1]:
                return
            lines = self.noticing(node, parents)
        for kind, changes in KINDS:
            for start, end, new in changes(self, node, parents) if isinstance(node, kind) else ():
                names = [each.name for each in parents if isinstance(each, (ast.FunctionDef, ast.ClassDef))]
                line = bisect.bisect_right(self.begins, start)
                self.found.append(Mutant(start, end, line, new.encode(), ".".join(names) or "module", lines))
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and name not in ("annotation", "returns", "exc"):
                    self.walk(child, [*parents, node], lines)

    def noticing(self, node, parents):
        """The lines of a statement, without the block below it; outside of functions those that read what it binds."""
        if any(isinstance(parent, FUNCTIONS) for parent in parents):
            last = node.body[0].lineno - 1 if getattr(node, "body", None) else node.end_lineno
            return frozenset(range(node.lineno, max(node.lineno, last) + 1))
        return body_of(node) if isinstance(node, FUNCTIONS) else self.readers(bound_by(node))

    def readers(self, names):
        """The lines of functions with one of these names, or with one that is made of them at import."""
        lines, known = set(), set()
        while names - known:
            name = (names - known).pop()
            known.add(name)
            found = set(self.words[name])
            lines |= found & self.inside
            names = names.union(*(self.bound[number] for number in found - self.inside))
        return frozenset(lines)


def body_of(function):
    body = function.body if isinstance(function.body, list) else [function.body]
    return frozenset(range(body[0].lineno, body[-1].end_lineno + 1))


def bound_by(statement):
    """The names that a statement of a module or a class binds."""
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def is_left_out(node, parents):
    """Whether it is a docstring, a type alias, a name like __all__, for type checkers, or a place never reached."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.If):
        return getattr(node.test, "id", "") == "TYPE_CHECKING"
    if isinstance(node, ast.Assign) and not parents:
        return isinstance(node.value, ast.Subscript) or any(name.endswith("__") for name in bound_by(node))
    return isinstance(node, ast.Raise) and getattr(node.exc, "id", "") in ("AssertionError", "NotImplementedError")


def swapped(at, node, parents):
    """The operators between operands."""
    left = getattr(node, "left", None) or getattr(node, "target", None)
    operands = [left] if left else []
    for name in ("comparators", "values"):
        operands += getattr(node, name, [])
    operands += [node.right] if isinstance(node, ast.BinOp) else [node.value] if isinstance(node, ast.AugAssign) else []
    for left, right in zip(operands, operands[1:]):
        found = OPERATOR.search(at.source[at.end(left):at.start(right)].decode())
        if found:
            start = at.end(left) + found.start()
            yield start, start + len(found[0]), SWAPS[" ".join(found[0].split())]


def negated(at, node, parents):
    if isinstance(node.op, ast.Not):
        yield at.start(node), at.start(node.operand), ""


def constant(at, node, parents):
    value, call = node.value, parents[-1]
    if isinstance(call, ast.Call) and getattr(getattr(call.func, "value", None), "id", "") == "_log":
        return
    if isinstance(value, bool):
        yield at.start(node), at.end(node), str(not value)
    elif isinstance(value, (int, float)):
        yield at.start(node), at.end(node), repr(value + 1)
    elif isinstance(value, (str, bytes)) and not WORDING.search(repr(value)):
        yield at.start(node), at.end(node), repr(value + ("~" if isinstance(value, str) else b"~"))


def returned(at, node, parents):
    if node.value is not None and getattr(node.value, "value", "") is not None:
        yield at.start(node), at.end(node), "return None"


def deleted(at, node, parents):
    """A statement of a function lost; without one elsewhere nothing would even be imported."""
    declared = isinstance(node, ast.AnnAssign) and node.value is None
    if any(isinstance(parent, FUNCTIONS) for parent in parents) and not declared:
        yield at.start(node), at.end(node), "pass"


def forced(at, node, parents):
    """A condition always true, or never."""
    for test in node.ifs if isinstance(node, ast.comprehension) else [node.test]:
        if not isinstance(test, ast.Constant) and b"pragma: no branch" not in at.lines[test.lineno - 1]:
            for value in ("False",) if isinstance(node, ast.While) else ("True", "False"):
                yield at.start(test), at.end(test), value


def dropped(at, node, parents):
    """A keyword argument lost, with the comma before or after it."""
    given = sorted([*node.args, *(keyword.value for keyword in node.keywords)], key=at.start)
    for keyword in node.keywords:
        place = given.index(keyword.value)
        if place and keyword.arg:
            yield at.end(given[place - 1]), at.end(keyword.value), ""
        elif keyword.arg:
            comma = re.compile(rb"\s*,\s*").match(at.source, at.end(keyword.value))
            start = at.source.rindex(keyword.arg.encode(), 0, at.start(keyword.value))
            yield start, comma.end() if comma else at.end(keyword.value), ""


def defaulted(at, node, parents):
    """A default of None is another; other defaults are constants like any."""
    for default in [*node.defaults, *node.kw_defaults]:
        if isinstance(default, ast.Constant) and default.value is None:
            yield at.start(default), at.end(default), "True"


KINDS = (
    ((ast.Compare, ast.BoolOp, ast.BinOp, ast.AugAssign), swapped), (ast.UnaryOp, negated), (ast.Constant, constant),
    (ast.Return, returned), (ast.Call, dropped), (ast.arguments, defaulted),
    ((ast.If, ast.While, ast.IfExp, ast.comprehension), forced),
    ((ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete, ast.Expr), deleted))


def mutants(source):
    """All of a module's mutants, in its order."""
    return sorted(Finder(source).found, key=lambda mutant: mutant[:4])


def compiles(mutant, source):
    try:
        ast.parse(mutant.applied(source))
        return True
    except SyntaxError:
        return False
