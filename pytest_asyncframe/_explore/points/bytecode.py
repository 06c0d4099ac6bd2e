"""Which lines and bytecodes matter to other threads, and what they are called.

Relies on: names of bytecodes. One that is not listed here matters, so that a new version of
Python gives more locations than needed, and never fewer.
"""

from __future__ import annotations

import dis
import sys
from types import CodeType

from pytest_asyncframe._explore.schedule import Location

_ALONE = {
    # nothing, jumps, and the frame's own beginning
    *("NOP", "CACHE", "EXTENDED_ARG", "RESUME", "NOT_TAKEN", "KW_NAMES", "PRECALL"),
    *("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"),
    *("POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE"),
    *("POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE"),
    *("POP_JUMP_BACKWARD_IF_NONE", "POP_JUMP_BACKWARD_IF_NOT_NONE"),
    # the stack
    *("POP_TOP", "PUSH_NULL", "COPY", "SWAP", "END_FOR", "END_SEND", "POP_ITER", "IS_OP"),
    # constants
    *("LOAD_CONST", "LOAD_SMALL_INT", "LOAD_COMMON_CONSTANT", "LOAD_ASSERTION_ERROR"),
    # local variables
    *("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_AND_CLEAR", "LOAD_FAST_LOAD_FAST"),
    *("LOAD_FAST_BORROW", "LOAD_FAST_BORROW_LOAD_FAST_BORROW"),
    *("STORE_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST", "DELETE_FAST"),
    # cells as such, not what is in them
    *("MAKE_CELL", "COPY_FREE_VARS", "LOAD_CLOSURE"),
    # new objects, which nobody else has yet
    *("BUILD_TUPLE", "BUILD_LIST", "BUILD_STRING", "BUILD_SLICE", "LIST_APPEND"),
    *("MAKE_FUNCTION", "SET_FUNCTION_ATTRIBUTE"),
    # the error that is being handled
    *("PUSH_EXC_INFO", "POP_EXCEPT"),
}
"""Bytecodes that touch nothing that another thread could see or change, and stay in the frame.

Whether another thread runs before or after one of them makes no difference. Left out on
purpose is what may call a method of an object that is shared: operators, comparisons, `for`,
f-strings. So is what returns or yields: the caller may be code that nobody follows, and what
it does next may matter.
"""

_OF_A_CALL = {"LOAD_GLOBAL", "CALL"}
"""What a call of a global function without arguments consists of."""

if sys.version_info >= (3, 13):
    # Before, they asked an object whether it is true, such as a list whether it is empty.
    _ALONE |= {"POP_JUMP_IF_TRUE", "POP_JUMP_IF_FALSE", "UNARY_NOT"}


def lines(code: CodeType, file: str) -> dict[int, Location]:
    """Return the lines of a function that matter to other threads, and their names.

    Args:
        code: The function's.
        file: The name of its file.

    Returns:
        ``file:line`` by the number of the line.
    """
    steps, debugging = _shared(code)
    found = {line for step in steps if (line := _line(step)) is not None} - debugging
    return {line: _location(code, number, file, line) for number, line in enumerate(sorted(found))}


def bytecodes(code: CodeType, file: str) -> dict[int, Location]:
    """Return the bytecodes of a function that matter to other threads, and their names.

    Args:
        code: The function's.
        file: The name of its file.

    Returns:
        ``file:line+offset`` by the offset in bytes.
    """
    steps, debugging = _shared(code)
    found = [one for one in steps if one.opname not in _OF_A_CALL or _line(one) not in debugging]
    return {
        step.offset: _location(code, number, file, _line(step) or code.co_firstlineno, step.offset)
        for number, step in enumerate(found)
    }


def _location(
    code: CodeType, number: int, file: str, line: int, offset: int | None = None
) -> Location:
    name = f"{file}:{line}" if offset is None else f"{file}:{line}+{offset}"
    return Location.of(name, f"{code.co_qualname} {number}")


def _shared(code: CodeType) -> tuple[list[dis.Instruction], set[int | None]]:
    """Return the bytecodes that others may notice, and the lines of those for debugging."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _ALONE]
    return steps, {_line(step) for step in steps if _is_debugging(step)}


def _is_debugging(step: dis.Instruction) -> bool:
    """Whether a bytecode is a part of ``breakpoint()``.

    A line with it is no point, so that a run is the same with a debugger as without.
    """
    return step.opname == "LOAD_GLOBAL" and step.argval == "breakpoint"


def _line(step: dis.Instruction) -> int | None:
    return None if step.positions is None else step.positions.lineno
