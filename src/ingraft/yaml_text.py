"""YAML out of other people's files: the types of JSON and no others, in bounds; refused in one line with file and line.

A key is the text that stands there, a date is text; a key that occurs twice, and any tag that asks for more than
JSON has, is refused. PyYAML comes with huggingface_hub.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ingraft.errors import UnusableInput, first_line

# A model card with hundreds of evaluation results has a third of that.
MOST_CHARACTERS = 1_000_000
# Beyond that, values stand for values that stand for values: a few lines that no memory holds.
MOST_VALUES = 200_000
MOST_DIGITS = 300
# In brackets and braces; the time that PyYAML takes grows with the square of it.
MOST_LEVELS = 50


def import_yaml() -> Any:
    """The module yaml; UnusableInput when it is not installed."""
    try:
        import yaml
    except ModuleNotFoundError:
        raise UnusableInput(
            "YAML needs the package pyyaml, which is not installed.", hint="Run: pip install 'ingraft[train]'"
        ) from None
    return yaml


def read_yaml(text: str, where: str, *, as_written: bool = False) -> Any:
    """The value that the YAML `text` holds, None where it holds nothing; `where` is the file, for messages.

    as_written  every scalar but null is the text that stands there: `no`, `1.10` and `1e3` are what they look like
    """
    return _loaded(text, where, lambda loader: loader.get_single_data(), as_written=as_written)


@dataclass(frozen=True)
class Entry:
    """An entry of a mapping, its value as it is written, and where it stands: from the beginning of its line to that of
    the next entry. `indent` spaces are before its key."""

    key: str
    value: Any
    start: int
    stop: int
    indent: int


def read_entries(text: str, where: str) -> tuple[Entry, ...]:
    """The entries of the mapping that `text` holds; UnusableInput where they do not begin on lines of their own."""

    def load(loader: Any) -> tuple[Entry, ...]:
        node = loader.get_single_node()
        values = loader.construct_document(node) if node is not None else {}
        if not isinstance(values, dict) or (values and node.flow_style):
            raise UnusableInput(f"{where} holds no YAML mapping with an entry a line.")
        begins = [key.start_mark.index for key, _ in node.value] if node is not None else []
        starts = [text.rfind("\n", 0, begin) + 1 for begin in begins]
        if any(text[start:begin].strip(" ") for start, begin in zip(starts, begins, strict=True)):
            raise UnusableInput(f"{where} holds a key that does not begin its line.")
        stops = [*starts[1:], node.end_mark.index] if starts else []
        return tuple(
            Entry(key, value, start, stop, begin - start)
            for (key, value), start, stop, begin in zip(values.items(), starts, stops, begins, strict=True)
        )

    found: tuple[Entry, ...] = _loaded(text, where, load, as_written=True)
    return found


def _loaded(text: str, where: str, load: Callable[[Any], Any], *, as_written: bool) -> Any:
    yaml = import_yaml()
    if len(text) > MOST_CHARACTERS:
        raise UnusableInput(f"{where} has {len(text):,} characters, too many for YAML of settings or of a model card.")
    try:
        return load(_loader(as_written)(text))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UnusableInput(f"{where} is not YAML: a character that no text has in line {line}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise UnusableInput(f"{where} is not YAML: {problem.removeprefix('but ')}{place}.") from None
    except RecursionError:
        raise UnusableInput(f"{where} is nested too deeply to be read.") from None


def write_yaml(value: Mapping[str, Any], *, width: int = 120) -> str:
    text: str = import_yaml().safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=width)
    return text


@functools.cache
def _loader(as_written: bool) -> Any:
    """A loader class of PyYAML, which is imported where it is first needed."""
    yaml = import_yaml()
    safe: Any = yaml.SafeLoader

    class Loader(safe):  # type: ignore[misc]
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.values = 0
            self.sizes: dict[int, int] = {}  # id of a node → the values that an alias of it stands for

        def fetch_flow_collection_start(self, token: Any) -> None:
            if self.flow_level >= MOST_LEVELS:
                raise RecursionError
            super().fetch_flow_collection_start(token)

        def compose_node(self, parent: Any, index: Any) -> Any:
            is_alias, event, before = self.check_event(yaml.AliasEvent), self.peek_event(), self.values
            node = super().compose_node(parent, index)
            if is_alias:
                if id(node) not in self.sizes:
                    raise _error("a value that contains itself", event)
                self.values += self.sizes[id(node)]
            else:
                self.values += 1
                self.sizes[id(node)] = self.values - before
            if self.values > MOST_VALUES:
                raise _error(f"more than {MOST_VALUES:,} values", event)
            return node

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise _error("a key that is no text", key)
                if key.value in seen:
                    raise _error(f"the key {key.value[:60]!r} for the second time", key)
                seen.add(key.value)
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
            if not isinstance(node, yaml.MappingNode):
                raise _error("a tag that its value does not fit", node)
            if not as_written:
                self.flatten_mapping(node)  # merge keys
            return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}

        def construct_checked(self, node: Any) -> Any:
            """Of a number Python prints so many digits and no more; what a tag calls a number need not be one."""
            kind = node.tag.rsplit(":", 1)[-1]
            if len(self.construct_scalar(node)) <= MOST_DIGITS:
                with contextlib.suppress(ValueError, IndexError, KeyError):
                    return getattr(self, f"construct_yaml_{kind}")(node)
            raise _error(f"{node.value[:60]!r}, which is no {kind}", node)

        def construct_text(self, node: Any) -> Any:
            if isinstance(node, yaml.ScalarNode):
                return node.value
            is_map = isinstance(node, yaml.MappingNode)
            return self.construct_yaml_map(node) if is_map else self.construct_yaml_seq(node)

        def construct_other(self, node: Any) -> Any:
            raise _error(f"the tag {node.tag[:60]!r}, which settings do not have", node)

    def _error(found: str, place: Any) -> Exception:
        error: Exception = yaml.constructor.ConstructorError(None, None, f"found {found}", place.start_mark)
        return error

    kinds = ("null",) if as_written else ("null", "bool", "int", "float", "str", "seq", "map", "merge")
    known = {f"tag:yaml.org,2002:{kind}" for kind in kinds}
    Loader.yaml_constructors = {tag: made for tag, made in Loader.yaml_constructors.items() if tag in known}
    Loader.add_constructor(None, Loader.construct_text if as_written else Loader.construct_other)
    for kind in ("bool", "int", "float") if not as_written else ():
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", Loader.construct_checked)
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag in known]
        for first, pairs in Loader.yaml_implicit_resolvers.items()
    }
    return Loader
