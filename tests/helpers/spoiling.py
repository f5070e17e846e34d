"""Spoils what a file holds: JSON values in random places, and bytes. `pick(n)` chooses a number below n."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

Pick = Callable[[int], int]

# What has broken readers before: other types, numbers without an end, names that leave their folder or are no text.
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**70, -(2**70), 0.5, 1e308, float("nan"), float("inf"),
    "", " ", "a", "0", "none", "all", "..", "../x", "/etc/passwd", "a\\b", "C:\\x", "\0", "\ud800", "²", "(", "[", "*",
    "{0}", "{}", "%s", "[bold]", "x" * 300, "a." * 50, "Transformer", "Pooling", "Router", "float16",
    [], [[]], [None], [0], [""], ["query"], ["("], ["", "²"], {}, {"": 0}, {"a": None}, {"query": "x"}, {"(": 1},
    {"0": []},
)  # fmt: skip


def spoiled(value: Any, pick: Pick, *, keys: tuple[str, ...] = ()) -> Any:
    """A copy of a JSON value with one to three changes; `keys` are names worth adding to an object."""
    found = [copy.deepcopy(value)]
    for _ in range(1 + pick(3)):
        _change(found, pick, keys)
    return found[0]


def _change(root: list[Any], pick: Pick, keys: tuple[str, ...]) -> None:
    places = list(_places(root))
    holder, at = places[pick(len(places))]
    how = pick(6)
    inside = holder[at]
    if how == 0 and holder is not root:
        del holder[at]
    elif how == 1 and isinstance(inside, dict):
        names = (*keys, *(key for key in ODD if isinstance(key, str)))
        inside[names[pick(len(names))]] = copy.deepcopy(ODD[pick(len(ODD))])
    elif how == 2 and isinstance(inside, list):
        inside.append(copy.deepcopy(inside[pick(len(inside))] if inside else ODD[pick(len(ODD))]))
    elif how == 3 and isinstance(holder, dict):
        holder[[key for key in ODD if isinstance(key, str)][pick(10)]] = holder.pop(at)
    elif how == 4:
        # the value of another place, which has the right form for that one
        other, there = places[pick(len(places))]
        holder[at] = copy.deepcopy(other[there])
    else:
        holder[at] = copy.deepcopy(ODD[pick(len(ODD))])


def _places(holder: Any) -> Any:
    items = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
    for at, value in items:
        yield holder, at
        if isinstance(value, (dict, list)):
            yield from _places(value)


def json_bytes(value: Any) -> bytes:
    """As other programs write it: half a surrogate pair stays an escape, NaN and infinity are words."""
    return json.dumps(value).encode()


_PIECES = (
    b"", b"\0", b"\n", b"\r", b'"', b"'", b",", b";", b"\t", b"\\", b"{", b"}", b"[", b"]", b":", b"- ", b"&a ", b"*a",
    b"!!int x", b"!!python/object:os.system ", b"0x_", b"2020-13-45", b"9" * 5000, b"[" * 3000, b"\xff",
    b"\xef\xbb\xbf", b"\xed\xa0\x80", b"<<: *a", b"null", b"NaN", b"1e999", b"~", b"\x85", b"\xe2\x80\xa8",
    b"PK\x03\x04", b"\x80\x02", b".",
)  # fmt: skip


def spoiled_bytes(content: bytes, pick: Pick) -> bytes:
    """`content` with one to four cuts, overwritten, repeated or inserted pieces."""
    for _ in range(1 + pick(4)):
        at = pick(len(content) + 1)
        length = pick(min(64, len(content) - at) + 1)
        how = pick(5)
        if how == 0:
            content = content[:at] + content[at + length :]
        elif how == 1:
            content = content[:at] + _PIECES[pick(len(_PIECES))] + content[at:]
        elif how == 2:
            content = content[:at] + content[at : at + length] * (2 + pick(3)) + content[at + length :]
        elif how == 3 and at < len(content):
            content = content[:at] + bytes([pick(256)]) + content[at + 1 :]
        else:
            content = content[:at]
    return content
