"""Which lines touch nothing that several actors touch, as one run shows.

Schedules that pause somebody at such a line are tried last. They are not left out, since
another run may show what this one has not: so a wrong answer here only costs time.

What a statement touches is read from its text and the values of its variables, without
calling code of the user. Where that does not tell, the line counts as shared.

Relies on: one actor running at a time.
"""

from __future__ import annotations

import ast
import sys
import weakref
from collections import Counter, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

from pytest_asyncframe._explore.schedule import Location, Point
from pytest_asyncframe._explore.telling.statements import parsed_at, parts_of
from pytest_asyncframe._locations import is_users
from pytest_asyncframe._turns.sequencer import Sequencer

_PLAIN = (int, float, complex, bool, str, bytes, type(None), range)
"""Types whose values nobody can change, and whose operators and methods touch nothing else."""

_CONTAINERS = (list, dict, set, deque)

_READS = frozenset({"copy", "count", "get", "index", "items", "keys", "values"})
"""The methods of containers that change nothing; all others may."""

_HARMLESS: tuple[object, ...] = (
    *(abs, bool, bytes, enumerate, float, int, isinstance, len, max, min, range, round, str, zip),
)
"""Functions that read what they are given and touch nothing else."""


_MOST_VISITS = 100
"""How often each location is looked at: it takes some 20 µs."""


class Touch(NamedTuple):
    """What a line reads or changes: a variable of a module, an attribute, what is in a cell."""

    key: Hashable
    writes: bool


class _UnknownError(Exception):
    """Raised where the text of a statement does not tell what it touches."""


class Sharing:
    """Finds the lines of one run that no other actor can notice, and marks their locations.

    Attributes:
        is_known: Whether a run was watched.
    """

    def __init__(self) -> None:
        self.is_known: bool = False

    @contextmanager
    def learning(self, sequencer: Sequencer, point: Point) -> Iterator[Point]:
        """Watch the run inside the block.

        Args:
            sequencer: The actors of the test.
            point: Called at each line or bytecode.

        Yields:
            What is to be called instead.
        """
        self.is_known = True
        seen = _Seen()

        def arrive(level: str, what: str) -> None:
            actor = sequencer.here
            if actor is not None and isinstance(what, Location):
                # The frame at the location has called the follower, which has called this.
                seen.note(actor.identity, what, sys._getframe(2))
            point(level, what)

        yield arrive
        seen.mark()


class _Seen:
    """What the lines of a run have touched so far."""

    def __init__(self) -> None:
        # Who has touched it, and whether anybody has changed it.
        self._actors: dict[Hashable, set[str]] = {}
        self._written: set[Hashable] = set()
        self._touched: dict[int, tuple[Location, set[Hashable]]] = {}
        self._unknown: set[int] = set()
        self._visits = Counter[int]()
        self._names = _Names()

    def note(self, who: str, where: Location, frame: FrameType) -> None:
        """Note that an actor is about to run the line of a location."""
        _, keys = self._touched.setdefault(id(where), (where, set()))
        self._visits[id(where)] += 1
        if id(where) in self._unknown or self._visits[id(where)] > _MOST_VISITS:
            return
        try:
            touches = _Reader(frame, self._names).touches()
        except _UnknownError:
            self._unknown.add(id(where))
            return
        for key, writes in touches:
            keys.add(key)
            self._actors.setdefault(key, set()).add(who)
            if writes:
                self._written.add(key)

    def mark(self) -> None:
        """Mark the locations of lines that touch nothing that is shared."""
        for where, keys in self._touched.values():
            where.is_alone = id(where) not in self._unknown and not any(map(self._is_shared, keys))

    def _is_shared(self, key: Hashable) -> bool:
        return key in self._written and len(self._actors[key]) > 1


class _Names:
    """Numbers for objects, which an object that comes later at the same address does not get."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, weakref.ref[object]]] = {}
        self._latest = 0

    def of(self, value: object) -> int:
        """Return the number of an object.

        Raises:
            _UnknownError: If it has no weak references.
        """
        address = id(value)
        if address not in self._known:
            known = self._known
            try:
                reference = weakref.ref(value, lambda _: known.pop(address, None))
            except TypeError:
                raise _UnknownError from None
            self._latest += 1
            known[address] = self._latest, reference
        return self._known[address][0]


class _Reader:
    """Finds what the statement touches at which a frame stands."""

    def __init__(self, frame: FrameType, names: _Names) -> None:
        self._frame = frame
        self._locals = frame.f_locals
        self._names = names
        self._found: list[Touch] = []

    def touches(self) -> list[Touch]:
        """Return what it touches.

        Raises:
            _UnknownError: If that cannot be told.
        """
        found = parsed_at(self._frame.f_code.co_filename, self._frame.f_lineno)
        if found is None:
            raise _UnknownError
        for node in found.nodes:
            if not isinstance(node, _STATEMENTS):
                raise _UnknownError
            for part in parts_of(node):
                self._visit(part)
            if isinstance(node, ast.AugAssign):
                self._touch(node.target, writes=False)
            if isinstance(node, ast.For):
                self._iterated(node.iter)
        return self._found

    def _iterated(self, node: ast.expr) -> None:
        if isinstance(node, ast.Call):
            return  # of what `_visit` knows
        if type(self._value(node)) not in (*_PLAIN, tuple):
            self._touch(node, writes=False, inside=True)

    def _visit(self, node: ast.AST) -> None:
        match node:
            case ast.Name() | ast.Attribute() | ast.Subscript():
                self._touch(node, writes=not isinstance(node.ctx, ast.Load))
            case ast.Call():
                self._call(node)
            case ast.BinOp() | ast.UnaryOp() | ast.Compare() | ast.FormattedValue():
                for part in ast.iter_child_nodes(node):
                    self._visit(part)
                    if isinstance(part, (ast.Name, ast.Attribute, ast.Subscript)):
                        self._operand(part)
            case _ if isinstance(node, _EXPRESSIONS):
                for part in ast.iter_child_nodes(node):
                    self._visit(part)
            case ast.operator() | ast.unaryop() | ast.cmpop() | ast.boolop() | ast.expr_context():
                pass
            case _:
                raise _UnknownError

    def _operand(self, node: ast.expr) -> None:
        """Note what an operator reads in a container; that of any other object is not known."""
        value = self._value(node)
        if type(value) in _CONTAINERS:
            self._touch(node, writes=False, inside=True)
        elif type(value) not in _PLAIN:
            raise _UnknownError

    def _touch(self, node: ast.expr, *, writes: bool, inside: bool = False) -> None:
        """Note a variable, an attribute or an element.

        Args:
            node: What stands for it.
            writes: Whether it is changed.
            inside: Whether what is in it is read or changed, and not itself alone.
        """
        match node:
            case ast.Name(id=name):
                self._variable(name, writes=writes, inside=inside)
            case ast.Attribute(value=owner, attr=name):
                self._visit(owner)
                holder = self._value(owner)
                if issubclass(type(holder), ModuleType):
                    if writes or not _is_code(vars(holder).get(name)):
                        self._found.append(Touch((holder.__name__, name), writes))
                    return
                if writes or name in _attributes(holder):
                    self._found.append(Touch((self._names.of(holder), name), writes))
                elif not _is_code(_of_class(type(holder), name)):
                    raise _UnknownError
            case ast.Subscript(value=owner, slice=key):
                self._visit(key)
                if type(self._value(owner)) in (str, bytes, tuple):
                    self._visit(owner)
                    return
                if type(self._value(owner)) not in _CONTAINERS or inside:
                    raise _UnknownError
                self._touch(owner, writes=writes, inside=True)
            case _:
                raise _UnknownError

    def _variable(self, name: str, *, writes: bool, inside: bool) -> None:
        code = self._frame.f_code
        if name in code.co_freevars or name in code.co_cellvars:
            # Where it is kept cannot be asked; its name will do.
            self._found.append(Touch((code.co_filename, "cell", name), writes))
        elif name in code.co_varnames:
            if inside:
                # A container that somebody else may have under another name.
                raise _UnknownError
        elif writes or inside or not _is_code(self._value(ast.Name(id=name))):
            module = self._frame.f_globals.get("__name__")
            self._found.append(Touch((module, name), writes))

    def _call(self, node: ast.Call) -> None:
        for part in (*node.args, *(one.value for one in node.keywords)):
            self._visit(part)
        match node.func:
            case ast.Name(id=name):
                self._called(self._value(ast.Name(id=name)), node)
            case ast.Attribute(value=ast.JoinedStr() as text):
                self._visit(text)
            case ast.Attribute(value=owner, attr=name):
                value = self._value(owner)
                if type(value) in _PLAIN:
                    self._visit(owner)
                elif type(value) in _CONTAINERS:
                    self._touch(owner, writes=name not in _READS, inside=True)
                else:
                    self._visit(owner)
                    self._called(_of_class(type(value), name), node)
            case _:
                raise _UnknownError

    def _called(self, function: Any, node: ast.Call) -> None:  # Any: what a user has
        harmless = any(function is one for one in _HARMLESS)
        is_class = issubclass(type(function), type) and not harmless
        body = _of_class(function, "__init__") if is_class else function
        if type(body) is FunctionType and is_users(body.__code__):
            return  # whose lines are watched themselves
        if harmless:
            for part in node.args:
                if isinstance(part, (ast.Name, ast.Attribute, ast.Subscript)):
                    self._operand(part)
            return
        raise _UnknownError

    def _value(self, node: ast.expr) -> Any:  # Any: a user's value
        """Return the value of an expression.

        Raises:
            _UnknownError: If that takes code of the user, or there is none.
        """
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                for names in (self._locals, self._frame.f_globals, self._frame.f_builtins):
                    if name in names:
                        return names[name]
            case ast.Attribute(value=owner, attr=name):
                holder = self._value(owner)
                found = _attributes(holder)
                if name in found:
                    return found[name]
            case ast.Subscript(value=owner, slice=key):
                container, at = self._value(owner), self._value(key)
                if type(container) in (list, dict, tuple, str) and type(at) in (int, str):
                    try:
                        return container[at]
                    except (LookupError, TypeError):
                        pass
        raise _UnknownError


_STATEMENTS = (
    *(ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Return, ast.Delete),
    *(ast.If, ast.While, ast.For, ast.Pass, ast.Break, ast.Continue),
)

_EXPRESSIONS = (
    *(ast.Constant, ast.BoolOp, ast.IfExp, ast.NamedExpr, ast.JoinedStr),
    *(ast.Tuple, ast.List, ast.Dict, ast.Set, ast.Starred),
)
"""Those that touch nothing but what their parts touch."""


def _is_code(value: object) -> bool:
    # Not `isinstance`, which may ask the object.
    kinds = (FunctionType, BuiltinFunctionType, ModuleType, type, property)
    return issubclass(type(value), kinds)


def _of_class(kind: type, name: str) -> object:
    """Return what a class has under a name, such as a method.

    Raises:
        _UnknownError: If it has nothing.
    """
    for one in kind.__mro__:
        if name in vars(one):
            found = vars(one)[name]
            return found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
    raise _UnknownError


def _attributes(value: object) -> dict[str, Any]:  # Any: values of a user
    try:
        found = object.__getattribute__(value, "__dict__")
    except Exception:  # whatever a class has made of it
        return {}
    return found if isinstance(found, dict) else {}
