"""Small safe things about files: JSON that says where it is broken, paths that stay in their directory."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ingraft.errors import UnusableInput

MAX_JSON_BYTES = 64 * 1024 * 1024
# No file of a model has a tenth of that, and what copies, prints or writes values goes down one level at a time.
MAX_JSON_DEPTH = 100


def read_json(path: Path) -> Any:
    """The JSON value in `path`; UnusableInput names the file and the place when it is not JSON."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise UnusableInput(f"{path} has {size:,} bytes, too many for a JSON file of a model.")
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnusableInput(f"{path} does not exist.") from None
    except OSError as error:
        raise UnusableInput(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UnusableInput(f"{path} is not UTF-8 text.") from None
    except RecursionError:
        raise UnusableInput(f"{path} is nested too deeply to be read.") from None
    except json.JSONDecodeError as error:
        raise UnusableInput(f"{path} is not JSON: {error.msg} in line {error.lineno}.") from None
    except ValueError:  # Python reads no integer of more than 4300 digits
        raise UnusableInput(f"{path} holds a number of too many digits.") from None


def parse_json(text: str) -> Any:
    """The JSON value that `text` holds; RecursionError where it is nested deeper than `MAX_JSON_DEPTH`.

    ValueError for what is no JSON, and for a number of more digits than Python reads.
    """
    value = json.loads(text)
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inside(outer) if isinstance(inner, (dict, list))]:
        depth += 1
        if depth >= MAX_JSON_DEPTH:
            raise RecursionError("nested too deeply")
    return value


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UnusableInput(f"{path} holds a JSON {type(value).__name__}, expected an object.")
    return value


def to_json(value: Any) -> str:
    """`value` as the JSON text that Hugging Face libraries write: two spaces, UTF-8, a final newline.

    A file name need not be text; what is no character in it (half a surrogate pair, for Python) stays an escape.
    """
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def inside(folder: Path, name: str, *, named_by: Path) -> Path:
    """`folder / name` for a relative `name` out of a file; UnusableInput when it leaves `folder` or cannot be.

    Symbolic links are not followed for this: the Hub's cache consists of them.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or PureWindowsPath(name).drive:
        raise UnusableInput(f"{named_by} names {name!r:.200}, which lies outside {folder}.")
    try:
        (folder / parts).lstat()
    except ValueError:  # NUL, or half a surrogate pair
        raise UnusableInput(f"{named_by} names {name!r:.200}, which no file can be called.") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UnusableInput(f"{named_by} names {name!r:.200}, which is too long for a file.") from None
    return folder / parts


def human_bytes(count: float) -> str:
    """`90.9 MB`: powers of a thousand, three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
