"""A pickle as plain values: what would be called is noted down, and nothing is ever called or imported.

The few opcodes that torch.save writes, as torch's own reader for `weights_only=True` knows them.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any


@dataclass(frozen=True)
class Global:
    """A name that the pickle would import."""

    module: str
    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """A function that the pickle would call, and with what; `function` is any value that stood in its place."""

    function: Any
    arguments: tuple[Any, ...]


class NotInert(pickle.UnpicklingError):
    """The pickle asks for a name that no tensor needs."""


def read_inert(file: IO[bytes], allowed: frozenset[Global], outside: Callable[[Any], Any]) -> Any:
    """The value of the next pickle in `file`: plain values, `Global`, `Call`, and dicts whose keys are str or None.

    `outside` gives the value for the name of something that lies beside the pickle (persistent_load of pickle).
    Every key that is no string stands as None: numbers and tuples can be chosen such that hashing them takes for ever.
    Raises NotInert for a name that is not allowed, and whatever a broken pickle leads to: IndexError, ValueError, …
    """
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        found, stack = stack, marked.pop()
        return found

    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO":
                pass
            case "STOP":
                break
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [_last(stack, count)]
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append([])
            case "MARK":
                marked.append(stack)
                stack = []
            case "TUPLE":
                found = tuple(since_mark())
                stack.append(found)
            case "APPEND":
                item = stack.pop()
                _put(stack, [item])
            case "APPENDS":
                items = since_mark()
                _put(stack, items)
            case "SETITEM":
                pair = _last(stack, 2)
                del stack[-2:]
                _put_pairs(stack, pair)
            case "SETITEMS":
                pairs = since_mark()
                _put_pairs(stack, pairs)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                name = Global(*argument.split(" ", 1))
                if name not in allowed:
                    raise NotInert(f"{name.module}.{name.name}")
                stack.append(name)
            case "REDUCE" | "NEWOBJ":
                function, arguments = _last(stack, 2)
                stack[-2:] = [_call(function, arguments)]
            case "BUILD":
                stack.pop()  # attributes, which no tensor's bytes depend on
            case "BINPERSID":
                stack.append(outside(stack.pop()))
            case other:
                raise pickle.UnpicklingError(f"the opcode {other} is none that torch writes")
    return stack.pop()


_ORDERED = Global("collections", "OrderedDict")


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(arguments, tuple):
        raise pickle.UnpicklingError("a function is called without a tuple of arguments")
    if function != _ORDERED:
        return Call(function, arguments)
    built: dict[str | None, Any] = {}
    for key, value in arguments[0] if arguments else ():
        built[key if isinstance(key, str) else None] = value
    return built


def _last(stack: list[Any], count: int) -> tuple[Any, ...]:
    if len(stack) < count:
        raise IndexError("the stack is empty")
    return tuple(stack[-count:])


def _put(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise pickle.UnpicklingError("an item is appended to what is no list")
    stack[-1].extend(items)


def _put_pairs(stack: list[Any], pairs: Any) -> None:
    if not isinstance(stack[-1], dict) or len(pairs) % 2:
        raise pickle.UnpicklingError("a key is set in what is no dict")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        stack[-1][key if isinstance(key, str) else None] = value
