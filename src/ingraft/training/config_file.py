"""A training config as a YAML file: read, resolved with the flags, printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput, first_line
from ingraft.training.config import TrainingConfig
from ingraft.training.keys import build, keys_of, nested, overlaid, plain

_MOST_VALUES = 100_000


def resolve(file: Path | None, flags: Mapping[tuple[str, ...], Any]) -> TrainingConfig:
    """The config of `file` with `flags` (by path) over it, defaults for the rest. UnusableInput names what is wrong."""
    from_flags = nested(flags)
    if file is None:
        return build(TrainingConfig, from_flags)
    values = read_config(file)
    _check(values, from_flags, file)
    return build(TrainingConfig, overlaid(values, from_flags))


def _check(values: Mapping[str, Any], flags: Mapping[str, Any], file: Path) -> None:
    """What is wrong in the file is said of the file. A flag may supply what it lacks."""
    required = {key.path[0]: flags.get(key.path[0], "") for key in keys_of(TrainingConfig) if len(key.path) == 1}
    lacking = {name: value for name, value in required.items() if name in ("model", "data", "output")}
    build(TrainingConfig, overlaid(lacking, values), where=str(file))


def read_config(file: Path) -> dict[str, Any]:
    """The mapping in a YAML (or JSON) file."""
    yaml = import_yaml()
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnusableInput(f"{file} does not exist.", hint="Write a starter config: ingraft init DATA") from None
    except IsADirectoryError:
        raise UnusableInput(f"{file} is a directory; expected a YAML file with the settings.") from None
    except UnicodeDecodeError:
        raise UnusableInput(f"{file} is not UTF-8 text.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise UnusableInput(f"{file} is not YAML: {problem}{line}.") from None
    except RecursionError:
        raise UnusableInput(f"{file} is nested too deeply to be read.") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # a tag that its value does not fit
        raise UnusableInput(f"{file} is not YAML: {first_line(error)}.") from None
    _check_size(value, file)
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise UnusableInput(f"{file} holds {found}; expected settings such as: model: all-MiniLM-L6-v2")
    return value


def _check_size(value: Any, file: Path) -> None:
    """A few aliases of aliases stand for more values than memory holds, and one of itself for no end of them."""
    left, count = [value], 0
    while left:
        count += 1
        if count > _MOST_VALUES:
            raise UnusableInput(f"{file} holds more than {_MOST_VALUES:,} values, or one that contains itself.")
        found = left.pop()
        left += found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()


def to_yaml(config: TrainingConfig) -> str:
    """Every setting of `config` as YAML that `ingraft train FILE` takes."""
    text: str = import_yaml().safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=120)
    return text


def import_yaml() -> Any:
    """The module yaml; UnusableInput when it is not installed."""
    try:
        import yaml
    except ModuleNotFoundError:
        raise UnusableInput(
            "A config file needs the package pyyaml, which is not installed.", hint="Run: pip install 'ingraft[train]'"
        ) from None
    return yaml
