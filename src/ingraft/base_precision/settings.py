"""What a config or an adapter says about quantisation, in the words of transformers' BitsAndBytesConfig."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingraft.adapter import Adapter
from ingraft.base_precision.layers import Kind, describe

Settings = Mapping[str, Any]

_METHOD = "bitsandbytes"
CARD_LINE = "The following `bitsandbytes` quantization config was used during training:"


def trained_over(adapter: Adapter) -> Settings | None:
    """What the adapter says about the quantisation of the base in its training, or None when it says nothing.

    It is read from adapter_config.json (`quantization_config`, `load_in_4bit`, `load_in_8bit`) and, as PEFT once
    wrote it, from the model card.
    """
    raw = adapter.config.raw
    given = raw.get("quantization_config")
    if isinstance(given, dict) and (_bits(given) or not is_bitsandbytes(given)) and given:
        return given
    flags = {key: True for key in ("load_in_4bit", "load_in_8bit") if raw.get(key) is True}
    return flags or _from_card(adapter.folder / "README.md")


def _from_card(card: Path) -> Settings | None:
    try:
        lines = card.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if CARD_LINE not in lines:
        return None
    settings = {}
    for line in lines[lines.index(CARD_LINE) + 1 :]:
        found = re.fullmatch(r"- (\w+): (.*)", line)
        if found is None:
            if line.strip():
                break
            continue
        try:
            settings[found[1]] = ast.literal_eval(found[2])
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # no value that Python writes
            settings[found[1]] = found[2]
    return settings if _bits(settings) else None


def is_bitsandbytes(settings: Any) -> bool:
    return isinstance(settings, Mapping) and settings.get("quant_method", _bits(settings) and _METHOD) == _METHOD


def _bits(settings: Settings) -> int:
    """4, 8, or 0 where the settings switch neither on."""
    return next((n for n in (4, 8) if settings.get(f"load_in_{n}bit") or settings.get(f"_load_in_{n}bit")), 0)


def kind_of(settings: Settings) -> Kind:
    if _bits(settings) == 8:
        return "int8"
    return "nf4" if settings.get("bnb_4bit_quant_type", "fp4") == "nf4" else "fp4"  # transformers' default is fp4


def in_words(settings: Settings) -> str:
    if not is_bitsandbytes(settings):
        return str(settings.get("quant_method", "quantised"))
    kind = kind_of(settings)
    return describe(kind, double=kind != "int8" and bool(settings.get("bnb_4bit_use_double_quant")))
