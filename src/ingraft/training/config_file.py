"""A training config as a YAML file: read, resolved with the flags, printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.training.config import TrainingConfig
from ingraft.training.keys import build, keys_of, nested, overlaid, plain
from ingraft.yaml_text import read_yaml, write_yaml


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
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UnusableInput(f"{file} does not exist.", hint="Write a starter config: ingraft init DATA") from None
    except IsADirectoryError:
        raise UnusableInput(f"{file} is a directory; expected a YAML file with the settings.") from None
    except OSError as error:
        raise UnusableInput(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UnusableInput(f"{file} is not UTF-8 text.") from None
    value = read_yaml(text, str(file))
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise UnusableInput(f"{file} holds {found}; expected settings such as: model: all-MiniLM-L6-v2")
    return value


def to_yaml(config: TrainingConfig) -> str:
    """Every setting of `config` as YAML that `ingraft train FILE` takes."""
    return write_yaml(plain(config))
