"""What a statement reads and writes for certain, and by which objects it may meet other threads.

Left out is what may not run, such as the second half of an ``and``; what cannot be looked up
before the statement has run; and what an object's own code does, whose lines are read themselves.
So what is found here is done, but not all that is done is found.

Relies on: Python doing some calls of its containers at once, so that nobody comes in between.
"""

from __future__ import annotations

import _thread
import ast
import builtins
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import FrameType, MemberDescriptorType, ModuleType
from typing import Any

from pytest_asyncframe._explore.locks.model import Modelled
from pytest_asyncframe._explore.races.effects import (
    CONTAINERS,
    DICTS,
    Item,
    Part,
    Whole,
    effect_of,
    is_code,
    is_key,
    is_plain,
)
from pytest_asyncframe._explore.telling.statements import parsed_at, parts_of
from pytest_asyncframe._explore.telling.touches import value_of
from pytest_asyncframe._locations import is_users_file
from pytest_asyncframe._seen.reach import attributes_of
from pytest_asyncframe.clock._patched.queues import ModelQueue

FENCE = "whatever a line meets that cannot be looked up"
"""The subject of lines that may take a lock that nobody knows."""

FRAMEWORK = "the framework"
"""The subject of calls into the framework by which tasks tell each other something."""

_READERS = (
    *(any, all, dict, enumerate, filter, frozenset, iter, len, list, map, max, min, next),
    *(reversed, set, sorted, sum, tuple, zip),
)
"""Functions that read all of the containers that they are given."""

_MAKERS = frozenset({"__init__", "__new__", "__post_init__", "__setstate__"})
"""Methods that run before anybody else has the object."""

_SYNCHRONISING = (threading.Thread, Future)
"""Classes by which threads meet, also where a class of the user's is derived from them."""

_WAITS = frozenset(
    {
        *("acquire", "release", "wait", "notify", "notify_all", "set", "is_set", "locked"),
        *("result", "done", "is_alive"),
    }
)
"""Methods by which threads meet, of whatever object."""

_UNSHARED = frozenset(
    {
        *(
            "builtins",
            "contextlib",
            "contextvars",
            "_contextvars",
            "datetime",
            "decimal",
            "enum",
            "fractions",
        ),
        *("logging", "pathlib", "re", "types", "uuid", "string", "random", "functools"),
    }
)
"""Modules whose objects nobody meets at: they have no lock, or cannot be changed."""


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """A name or a part of a container that a statement reads or writes.

    Attributes:
        owner: What has it: the object of an attribute, the globals of a module, a container.
        name: The attribute or the global variable; "" for a part of a container.
        part: The part; None for a name.
        writes: Whether it is written.
        path: What to call it, as ``Stock.left`` or ``stock['left']``.
        checks: Whether what is written is looked at in the same call.
        twice: Whether it is read more than once, as by a ``for`` statement.
        decides: Whether it is read to decide whether it is written, in the block of an ``if``.
    """

    owner: object
    name: str
    part: Part
    writes: bool
    path: str
    checks: bool = False
    twice: bool = False
    decides: bool = False


@dataclass(slots=True)
class Reading:
    """What a statement does.

    Attributes:
        accesses: What it reads and writes, in order.
        meets: The subjects at which it may meet other threads.
        asks: Whether it asks the framework for what others have done.
    """

    accesses: list[Access]
    meets: list[object]
    asks: bool = False


def reading_of(frame: FrameType) -> Reading:
    """Return what the statement does at which a frame stands."""
    code = frame.f_code
    found = None if code.co_name.startswith("<") else parsed_at(code.co_filename, frame.f_lineno)
    reader = _Reader(frame)
    for node in () if found is None else found.nodes:
        if not reader.read(node):
            break
    return reader.reading


class _Reader(ast.NodeVisitor):
    """Reads statements in the order in which Python does what they say."""

    def __init__(self, frame: FrameType) -> None:
        self._frame = frame
        self._stored: set[str] = set()
        # What is written in the block that the statement decides on.
        self._decided: set[str] = set()
        self._goes_on = True
        self.reading: Reading = Reading([], [])

    def read(self, node: ast.stmt) -> bool:
        """Read a statement up to its block; return whether the next one on its line is run too."""
        self._stored |= {one.id for one in _names(node) if not isinstance(one.ctx, ast.Load)}
        self.visit(node)
        return self._goes_on

    def generic_visit(self, node: ast.AST) -> None:
        """Read the parts of an expression; nothing of a statement that is not known."""
        if isinstance(node, ast.stmt):
            self._goes_on = isinstance(node, (ast.Pass, ast.Expr, ast.Global, ast.Nonlocal))
        if isinstance(node, (ast.expr, ast.Expr, ast.Return, ast.Raise)):
            for part in ast.iter_child_nodes(node):
                if isinstance(part, ast.expr):
                    self.visit(part)

    def _value(self, node: ast.expr) -> Any:  # Any: a user's value
        """Return the value of an expression as it is now, and when it is used.

        Raises:
            LookupError: If it is not known.
        """
        code, names = self._frame.f_code, self._frame.f_locals
        for one in _names(node):
            is_local = one.id in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
            if one.id in self._stored or (is_local and one.id not in names):
                raise LookupError(one.id)
        return value_of(node, self._frame)

    # -- statements

    def visit_Assign(self, node: ast.Assign) -> None:
        """Read the value, and then write the targets."""
        self.visit(node.value)
        for target in node.targets:
            self._store(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Read the value, and then write the target; an annotation alone does nothing."""
        if node.value is not None:
            self.visit(node.value)
            self._store(node.target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Read the target and the value, and then write the target."""
        self._owner_of(node.target)
        self._touch(node.target, writes=False)
        self.visit(node.value)
        self._touch(node.target, writes=True)

    def visit_Delete(self, node: ast.Delete) -> None:
        """Write what is deleted."""
        for target in node.targets:
            self._store(target)

    def visit_If(self, node: ast.If) -> None:
        """Read what decides on the block."""
        self._decided = {ast.unparse(one) for one in _written_in(node.body)}
        self._tested(node)

    def _tested(self, node: ast.If | ast.While | ast.Assert) -> None:
        self._asked(node.test)
        self._goes_on = False

    def visit_While(self, node: ast.While) -> None:
        """Read what is tested."""
        self._tested(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Read what is tested."""
        self._tested(node)

    def visit_For(self, node: ast.For) -> None:
        """Read what is gone through."""
        self.visit(node.iter)
        self._used_all(node.iter, twice=True)
        self._goes_on = False

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        """Read what is entered, by which others may be met."""
        for item in node.items:
            self.visit(item.context_expr)
            self._entered(item.context_expr)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        """Read what is entered, as for any other ``with``."""
        self.visit_With(node)

    # -- expressions

    def visit_Name(self, node: ast.Name | ast.Attribute | ast.Subscript) -> None:
        """Read a name or an item, and what has it."""
        self._owner_of(node)
        self._touch(node, writes=False)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Read an attribute, and what has it."""
        self.visit_Name(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Read an item, its key, and what has it."""
        self.visit_Name(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Read the first part, which alone is read in any case."""
        self._asked(node.values[0])

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Read what decides."""
        self._asked(node.test)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Read the operand, as a whole if it is asked whether it is true."""
        if isinstance(node.op, ast.Not):
            self._asked(node.operand)
        else:
            self.visit(node.operand)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Read the first two parts, which alone are read in any case."""
        right = node.comparators[0]
        self.visit(node.left)
        self.visit(right)
        if isinstance(node.ops[0], (ast.In, ast.NotIn)):
            self._looked_for(node.left, right)

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.DictComp) -> None:
        """Read what is gone through; the rest may never be."""
        self.visit(node.generators[0].iter)
        self._used_all(node.generators[0].iter, twice=True)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        """Read what is gone through, as for a list."""
        self.visit_ListComp(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        """Read what is gone through, as for a list."""
        self.visit_ListComp(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        """Read what will be gone through."""
        self.visit(node.generators[0].iter)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Read nothing: it is not called here."""

    def _asked(self, node: ast.expr) -> None:
        """Read what is asked whether it is true, such as a list whether it is empty."""
        self.visit(node)
        self._used_all(node)

    def _used_all(self, node: ast.expr, *, twice: bool = False) -> None:
        if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
            self._in_container(node, Whole.ALL, writes=False, twice=twice)

    def _looked_for(self, key: ast.expr, node: ast.expr) -> None:
        try:
            value, container = self._value(key), self._value(node)
        except LookupError:
            return
        has_items = type(container) in (*DICTS, set)
        if has_items and is_key(value):
            self._in_container(node, Item(value), writes=False)
        elif not has_items:
            self._in_container(node, Whole.ALL, writes=False)

    def visit_Call(self, node: ast.Call) -> None:
        """Read what is called and what it is given, and then what it does, if that is known."""
        match node.func:
            case ast.Attribute(value=owner, attr=method):
                self.visit(owner)
                self._arguments(node)
                self._called(owner, method, node)
                return
            case ast.Name(id="hasattr" | "getattr", ctx=ctx):
                match node.args:
                    case [owner, ast.Constant(value=str() as name), *_]:
                        self._arguments(node)
                        self._touch(ast.Attribute(owner, name, ctx), writes=False)
                        return
            case func:
                self.visit(func)
        self._arguments(node)
        self._given(node)

    def _arguments(self, node: ast.Call) -> None:
        for part in (*node.args, *(one.value for one in node.keywords)):
            self.visit(part)

    def _called(self, owner: ast.expr, method: str, node: ast.Call) -> None:
        try:
            value = self._value(owner)
        except LookupError:
            if method in _WAITS:
                self.reading.meets.append(FENCE)
            return
        if type(value) in CONTAINERS:
            effect = effect_of(value, method, [*map(self._known, node.args)])
            if effect is not None:
                self._in_container(owner, effect.part, writes=effect.writes, checks=effect.checks)
        elif type(value) is ModuleType:
            self._given(node)
        else:
            self._meet(value)

    def _known(self, node: ast.expr) -> object:
        try:
            return self._value(node)
        except LookupError:
            return ...

    def _given(self, node: ast.Call) -> None:
        """Read what a function is given, if it is known to read it; maybe others are met by it."""
        function = self._known(node.func)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        function = getattr(builtins, name, None) if function is ... and name else function
        if any(function is one for one in _READERS):
            for part in node.args:
                self._used_all(part)
        elif not _is_users_code(function):
            for part in node.args:
                self._meet(self._known(part))

    # -- where threads meet

    def _entered(self, node: ast.expr) -> None:
        """Note what a ``with`` statement enters, which may be a lock."""
        if isinstance(node, ast.Call):
            if self._known(node.func) is ... or _is_users_code(self._known(node.func)):
                self.reading.meets.append(FENCE)
            return
        value = self._known(node)
        if value is ...:
            self.reading.meets.append(FENCE)
        else:
            self._meet(value)

    def _meet(self, value: object) -> None:
        kind = type(value)
        if kind in CONTAINERS or is_plain(value) or is_code(value) or value is ...:
            return
        if issubclass(kind, Modelled):
            # Whoever takes it and gives it back is heard.
            return
        module = str(kind.__module__)
        is_ours = module.partition(".")[0] in ("framework", "pytest_asyncframe")
        if is_ours and kind is not ModelQueue:
            self.reading.asks = True
            self.reading.meets.append(FRAMEWORK)
        elif issubclass(kind, _SYNCHRONISING) or not (_is_users(kind) or module in _UNSHARED):
            self.reading.meets += _with_inner(value)

    # -- names and parts

    def _store(self, node: ast.expr) -> None:
        if isinstance(node, (ast.Tuple, ast.List)):
            for part in node.elts:
                self._store(part)
        elif isinstance(node, ast.Starred):
            self._store(node.value)
        else:
            self._owner_of(node)
            self._touch(node, writes=True)

    def _owner_of(self, node: ast.expr) -> None:
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            self.visit(node.value)
        if isinstance(node, ast.Subscript):
            self.visit(node.slice)

    def _touch(self, node: ast.expr, *, writes: bool) -> None:
        match node:
            case ast.Name(id=name):
                self._global(name, writes=writes)
            case ast.Attribute(value=owner, attr=name):
                holder = self._known(owner)
                if holder is not ...:
                    decides = bool(self._decided) and ast.unparse(node) in self._decided
                    self._attribute(holder, name, writes=writes, decides=decides)
            case ast.Subscript(value=owner, slice=ast.Slice()):
                self._in_container(owner, Whole.ALL, writes=writes)
            case ast.Subscript(value=owner, slice=key):
                at = self._known(key)
                if type(at) is int and at < 0:
                    self._in_container(owner, Whole.ALL, writes=writes)
                elif at is not ... and is_key(at) and at != _thread.get_ident():
                    self._in_container(owner, Item(at), writes=writes)

    def _global(self, name: str, *, writes: bool) -> None:
        code, names = self._frame.f_code, self._frame.f_globals
        if name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars):
            return
        if name in names and (writes or not is_code(names[name])):
            path = f"{names.get('__name__')}.{name}"
            decides = name in self._decided
            access = Access(names, name, None, writes, path, decides=decides)
            self.reading.accesses.append(access)

    def _attribute(self, holder: Any, name: str, *, writes: bool, decides: bool) -> None:
        kind = type(holder)
        if issubclass(kind, ModuleType):
            if writes or not is_code(vars(holder).get(name)):
                path = f"{holder.__name__}.{name}"
                access = Access(vars(holder), name, None, writes, path, decides=decides)
                self.reading.accesses.append(access)
            return
        if is_plain(holder) or self._is_being_made(holder) or not _is_kept(holder, name, writes):
            return
        owner = holder if issubclass(kind, type) else kind
        path = f"{owner.__qualname__.rpartition('<locals>.')[2]}.{name}"
        access = Access(holder, name, None, writes, path, decides=decides)
        self.reading.accesses.append(access)

    def _is_being_made(self, holder: object) -> bool:
        code = self._frame.f_code
        if code.co_name not in _MAKERS or not code.co_varnames:
            return False
        return self._frame.f_locals.get(code.co_varnames[0]) is holder

    def _in_container(
        self,
        node: ast.expr,
        part: Part,
        *,
        writes: bool,
        checks: bool = False,
        twice: bool = False,
    ) -> None:
        container = self._known(node)
        if type(container) not in CONTAINERS:
            if container is not ... and part is not Whole.ALL:
                self._meet(container)
            return
        path = self._path(node)
        if isinstance(part, Item):
            path = f"{path}[{part.key!r}]"
        decides = bool(self._decided) and ast.unparse(node) in self._decided
        access = Access(container, "", part, writes, path, checks, twice, decides)
        self.reading.accesses.append(access)

    def _path(self, node: ast.expr) -> str:
        match node:
            case ast.Name(id=name):
                code, names = self._frame.f_code, self._frame.f_globals
                is_local = name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
                return name if is_local else f"{names.get('__name__')}.{name}"
            case ast.Attribute(value=owner, attr=name):
                holder = self._known(owner)
                if issubclass(type(holder), ModuleType):
                    return f"{holder.__name__}.{name}"  # type: ignore[attr-defined]
                return f"{type(holder).__qualname__.rpartition('<locals>.')[2]}.{name}"
        return ast.unparse(node)


def _written_in(block: list[ast.stmt]) -> Iterator[ast.expr]:
    """Yield the names and containers that a block writes, but not where it looks again first."""
    for node in block:
        match node:
            case ast.Assign(targets=targets) | ast.Delete(targets=targets):
                written = targets
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                written = [target]
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=owner))):
                written = [owner]
            case _:
                written = []
        for one in written:
            yield one.value if isinstance(one, ast.Subscript) else one


def _names(node: ast.stmt | ast.expr) -> Iterator[ast.Name]:
    """Yield the names in an expression, or in a statement up to its block."""
    parts: list[ast.AST] = [*parts_of(node)] if isinstance(node, ast.stmt) else [node]
    if isinstance(node, (ast.With, ast.AsyncWith)):
        parts += [one.optional_vars for one in node.items if one.optional_vars is not None]
    for part in parts:
        for one in ast.walk(part):
            if isinstance(one, ast.Name):
                yield one


def _is_users(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    return file is not None and is_users_file(file)


def _is_users_code(value: object) -> bool:
    if issubclass(type(value), type):
        return _is_users(value)  # type: ignore[arg-type]  # it is a class
    inner = getattr(value, "__func__", value) if is_code(value) else value
    code = getattr(inner, "__code__", None) if is_code(inner) else None
    return code is not None and is_users_file(code.co_filename)


def _is_kept(holder: Any, name: str, writes: bool) -> bool:
    """Whether an attribute is kept with an object, and is neither computed nor of one thread."""
    kind = type(holder)
    if issubclass(kind, threading.local):
        return False
    if issubclass(kind, type):
        return writes or (name in vars(holder) and not is_code(vars(holder)[name]))
    found = next((vars(one)[name] for one in kind.__mro__ if name in vars(one)), None)
    if type(found) is MemberDescriptorType:
        return True
    if hasattr(type(found), "__set__") or hasattr(type(found), "__delete__"):
        return False
    if writes:
        return not _has_own(kind, "__setattr__") or _is_open(holder)
    if _has_own(kind, "__getattribute__"):
        return False
    there = attributes_of(holder)
    if name in there:
        return not is_code(there[name])
    if hasattr(kind, "__getattr__"):
        return _is_open(holder)
    return found is None or not hasattr(type(found), "__get__")


def _has_own(kind: type, name: str) -> bool:
    """Whether a class has another method of a name than all objects have."""
    return any(name in vars(one) for one in kind.__mro__[:-1])


def _is_open(holder: object) -> bool:
    """Whether an object keeps whatever it is given, as Starlette's ``app.state`` does."""
    kind = type(holder)
    return kind.__name__ == "State" and kind.__module__ == "starlette.datastructures"


def _with_inner(value: object) -> Iterator[object]:
    """Yield an object of another package, and the locks inside of which it does its work."""
    yield value
    for name in ("_cond", "_condition", "_lock", "mutex"):
        inner = attributes_of(value).get(name)
        if inner is not None:
            yield inner
            yield from [one for one in [attributes_of(inner).get("_lock")] if one is not None]
