"""What a line reads and changes that others may have too, and values of it.

Only what Python itself can look up is read: no method of a user's object is called but
``repr()`` of what a line has set.
"""

from __future__ import annotations

import ast
import dis
import functools
import itertools
import sys
from collections import deque
from collections.abc import Hashable, Iterator
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

from pytest_asyncframe._explore.telling.entries import Touch
from pytest_asyncframe._explore.telling.statements import parsed_at, parts_of
from pytest_asyncframe._locations import is_users_file
from pytest_asyncframe._seen.reach import attributes_of
from pytest_asyncframe._values import shown

_LONGEST = 50
"""How many characters of a value are shown that a line reads."""

_MOST = 8
"""How many members of a container are shown."""

_CONTAINERS: tuple[type, ...] = (list, dict, set, deque)

_PLAIN: tuple[type, ...] = (int, float, bool, str, bytes, type(None))

_UNCHANGING = (*_PLAIN, tuple, frozenset)

_CODE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, type)

_ENTERS = ("BEFORE_WITH", "BEFORE_ASYNC_WITH", "LOAD_SPECIAL")
"""The bytecodes with which a ``with`` statement begins."""

_READS = frozenset(
    [
        *("copy", "count", "get", "index", "items", "keys", "values"),
        *("isdisjoint", "issubset", "issuperset", "union"),
    ]
)
"""The methods of containers that change nothing; what is not listed may."""


def touches_of(frame: FrameType) -> tuple[Touch, ...]:
    """Return what the statement at which a frame stands reads or changes."""
    found = parsed_at(frame.f_code.co_filename, frame.f_lineno)
    if found is None:
        return ()
    reader = _Reader(frame)
    for node in found.nodes:
        uses = isinstance(node, (ast.With, ast.AsyncWith))
        for part in parts_of(node):
            reader.use(part) if uses else reader.visit(part)
        if isinstance(node, ast.AugAssign):
            reader.touch(node.target, writes=False)
    return tuple(reader.found)


def set_by(frame: FrameType, line: int) -> str:
    """Return what a statement has set, as ``left = 1``; "" for any other line.

    Args:
        frame: The frame that has run it.
        line: Its line.
    """
    found = parsed_at(frame.f_code.co_filename, line)
    if found is None:
        return ""
    match found.nodes[-1]:
        case ast.Assign(targets=[target]) | ast.AugAssign(target=target):
            return _set(target, frame)
        case ast.AnnAssign(target=target, value=ast.expr()):
            return _set(target, frame)
        case (ast.Expr() | ast.Return()) as statement:
            match statement.value:
                case ast.Call(func=ast.Attribute(value=owner, attr=name)):
                    return _changed(owner, name, frame)
    return ""


def ends_block(frame: FrameType) -> bool:
    """Whether a frame stands at the end of the block of a ``with`` statement."""
    found = parsed_at(frame.f_code.co_filename, frame.f_lineno)
    if found is None or not isinstance(found.nodes[0], (ast.With, ast.AsyncWith)):
        return False
    # At its begin, the same line has what enters the block.
    steps = itertools.dropwhile(lambda one: one[0] < frame.f_lasti, _steps_of(frame.f_code))
    here = itertools.takewhile(lambda one: one[1] in (frame.f_lineno, None), steps)
    names = [name for _, _, name in here]
    # The first one follows an `await` at its begin that has failed.
    return "CLEANUP_THROW" not in names[:1] and not any(name in _ENTERS for name in names)


@functools.lru_cache(maxsize=64)
def _steps_of(code: CodeType) -> list[tuple[int, int | None, str]]:
    """Return the offsets, lines and names of the bytecodes of a function."""
    return [
        (one.offset, None if one.positions is None else one.positions.lineno, one.opname)
        for one in dis.get_instructions(code)
    ]


def _set(target: ast.expr, frame: FrameType) -> str:
    try:
        text = shown(value_of(target, frame))
    except LookupError:
        return ""
    # An object that shows only its type and address tells nothing.
    return "" if text.startswith("<") else f"{ast.unparse(target)} = {text}"


def _changed(owner: ast.expr, method: str, frame: FrameType) -> str:
    try:
        value = value_of(owner, frame)
    except LookupError:
        return ""
    if type(value) not in _CONTAINERS or method in _READS:
        return ""
    text = _plain(value)
    return f"{ast.unparse(owner)} = {text}" if text else ""


class _Reader(ast.NodeVisitor):
    """Finds what an expression touches.

    Args:
        frame: The frame whose variables it uses.

    Attributes:
        found: What it has found so far.
    """

    def __init__(self, frame: FrameType) -> None:
        self._frame = frame
        self.found: list[Touch] = []

    def visit_Name(self, node: ast.Name) -> None:
        """Note a variable."""
        self.touch(node, writes=not isinstance(node.ctx, ast.Load))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Note an attribute."""
        self.touch(node, writes=not isinstance(node.ctx, ast.Load))
        if not isinstance(node.value, ast.Name):
            self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Note an element."""
        self.touch(node, writes=not isinstance(node.ctx, ast.Load))
        self.visit(node.slice)

    def visit_Call(self, node: ast.Call) -> None:
        """Note the object whose method is called."""
        match node.func:
            case ast.Attribute(value=owner, attr=name):
                self.use(owner, name)
            case ast.Name():
                pass
            case other:
                self.visit(other)
        for part in (*node.args, *(one.value for one in node.keywords)):
            self.visit(part)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Pass over what is not run yet."""

    def use(self, owner: ast.expr, name: str = "") -> None:
        """Note an object of which a method is called, or which a `with` statement enters."""
        try:
            value = value_of(owner, self._frame)
        except LookupError:
            self.visit(owner)
            return
        if type(value) in _CONTAINERS:
            self.touch(owner, writes=name not in _READS)
        elif not (_is_users_object(value) or issubclass(type(value), (*_CODE, *_UNCHANGING))):
            # Nobody can look into it: a condition, a connection, a queue.
            self.touch(owner, writes=True)
        else:
            self.visit(owner)

    def touch(self, node: ast.expr, *, writes: bool) -> None:
        """Note what an expression stands for, if others may have it."""
        keys = set(_keys_of(node, self._frame))
        reads, changes = set(keys), keys if writes else set()
        element = self._element_of(node)
        if element is not None:
            # An element gets into the way of who uses all of the container, and the reverse.
            reads.add(("all", element))
            changes |= {("any", element)} if writes else set()
        text = ""
        try:
            value = value_of(node, self._frame)
        except LookupError:
            pass
        else:
            if _is_code(value) and not writes:
                return
            text = _plain(value)
            is_stored = isinstance(getattr(node, "ctx", None), ast.Store)
            if not is_stored and not issubclass(type(value), _UNCHANGING):
                whole = {("all", id(value)), ("any", id(value))}
                reads |= whole
                changes |= whole if writes else set()
        if reads:
            touch = Touch(frozenset(reads), frozenset(changes), ast.unparse(node), text)
            self.found.append(touch)

    def _element_of(self, node: ast.expr) -> int | None:
        """Return the `id` of the container that an expression takes an element of."""
        if not isinstance(node, ast.Subscript):
            return None
        try:
            owner = value_of(node.value, self._frame)
        except LookupError:
            return None
        return id(owner) if type(owner) in _CONTAINERS else None


def _keys_of(node: ast.expr, frame: FrameType) -> Iterator[Hashable]:
    """Yield a key of a variable, an attribute or an element that others may have."""
    code = frame.f_code
    try:
        match node:
            case ast.Name(id=name):
                if name in code.co_freevars or name in code.co_cellvars:
                    # Where it is kept cannot be asked; its name will do.
                    yield "cell", name
                elif name not in code.co_varnames:
                    yield id(frame.f_globals), name
            case ast.Attribute(value=owner, attr=name):
                found = value_of(owner, frame)
                is_module = issubclass(type(found), ModuleType)
                yield id(vars(found) if is_module else found), name
            case ast.Subscript(value=owner, slice=key):
                found = value_of(owner, frame)
                if type(found) in _CONTAINERS:
                    yield id(found), repr(_key(value_of(key, frame)))
    except LookupError:
        return


def _is_code(value: object) -> bool:
    return issubclass(type(value), _CODE)


def _is_users_object(value: object) -> bool:
    """Whether the lines of an object's methods are told themselves."""
    module = sys.modules.get(type(value).__module__)
    file = getattr(module, "__file__", None)
    return file is not None and is_users_file(file)


def _plain(value: object, depth: int = 2) -> str:
    """Return the text of a value of Python's own types; "" for any other."""
    if type(value) not in (*_PLAIN, *_CONTAINERS, tuple, frozenset):
        return ""
    text = _text(value, depth)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _text(value: Any, depth: int) -> str:  # Any: a user's value
    kind = type(value)
    if kind in _PLAIN:
        return shown(value)
    if kind not in (*_CONTAINERS, tuple, frozenset):
        return f"<{kind.__name__}>"
    if not depth:
        return "..."
    if kind is dict:
        first = list(itertools.islice(value.items(), _MOST))
        texts = [f"{_text(key, depth - 1)}: {_text(one, depth - 1)}" for key, one in first]
    else:
        texts = [_text(one, depth - 1) for one in itertools.islice(value, _MOST)]
    if kind in (set, frozenset):
        texts.sort()  # or the order would be that of the process
        if not texts:
            return f"{kind.__name__}()"
    if len(value) > _MOST:
        texts.append("...")
    begin, end = "{}" if kind in (dict, set, frozenset) else "()" if kind is tuple else "[]"
    return f"{begin}{', '.join(texts)}{end}"


def value_of(node: ast.expr, frame: FrameType) -> Any:  # Any: a user's value
    """Return the value of an expression, without calling a user's code.

    Raises:
        LookupError: If that is not possible, or there is none.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return frame.f_locals[name] if name in frame.f_locals else frame.f_globals[name]
        case ast.Attribute(value=owner, attr=name):
            return _attribute(value_of(owner, frame), name)
        case ast.Subscript(value=owner, slice=key):
            found = value_of(owner, frame)
            if type(found) in (list, dict):
                return found[_key(value_of(key, frame))]
    raise LookupError(ast.unparse(node))


def _attribute(value: Any, name: str) -> Any:  # Any: a user's value
    """Return an attribute that is kept with an object, and is not computed.

    Raises:
        LookupError: If there is none.
    """
    is_class = issubclass(type(value), type)
    kept = type.__getattribute__(value, "__dict__") if is_class else attributes_of(value)
    if name in kept:
        return kept[name]
    for base in type.__getattribute__(type(value), "__mro__"):
        slot = type.__getattribute__(base, "__dict__").get(name)
        if type(slot) is MemberDescriptorType:
            try:
                return slot.__get__(value)
            except AttributeError:  # not set
                break
    raise LookupError(name)


def _key(key: object) -> Any:  # Any: what finds a value in a list or a dict
    """Return a key whose hash and comparison are Python's own.

    Raises:
        LookupError: If they are not.
    """
    if type(key) in {int, str}:
        return key
    raise LookupError(key)
