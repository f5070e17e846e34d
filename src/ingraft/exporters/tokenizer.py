"""The tokenizer's files of an export: what they say of length is what the model takes, for readers of nothing else.

Sentence Transformers keeps the limit in a file of its own and sets the tokenizer anew at every call. Servers in other
languages read tokenizer.json alone, where whatever was last in force has been saved: for all-MiniLM-L6-v2 padding and
cutting at 128 tokens, where the model takes 256.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ingraft.exporters.source import Source
from ingraft.files import read_json_object, to_json
from ingraft.verification.report import Check

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"


def write_limits(source: Source, folder: Path) -> None:
    """Write the model's longest input into the tokenizer's files in `folder`, and padding to the longest of a batch."""
    transformer = source.live[0]
    tokenizer, limit = transformer.tokenizer, transformer.max_seq_length
    place = folder / source.layout.transformer
    if tokenizer is None or limit is None:
        return
    if (place / _CONFIG).is_file():
        config = read_json_object(place / _CONFIG)
        # transformers saves max_length too, whatever it was in the last call; fastembed takes the smaller one.
        limits = {name: limit for name in ("model_max_length", "max_length") if name in config}
        limits["model_max_length"] = limit
        (place / _CONFIG).write_text(to_json({**config, **limits}), encoding="utf-8")
    if (place / _FILE).is_file() and tokenizer.pad_token_id is not None:
        whole = read_json_object(place / _FILE)
        whole["truncation"] = {
            "direction": tokenizer.truncation_side.capitalize(),
            "max_length": limit,
            "strategy": "LongestFirst",
            "stride": 0,
        }
        whole["padding"] = {
            "strategy": "BatchLongest",
            "direction": tokenizer.padding_side.capitalize(),
            "pad_to_multiple_of": None,
            "pad_id": tokenizer.pad_token_id,
            "pad_type_id": tokenizer.pad_token_type_id,
            "pad_token": tokenizer.pad_token,
        }
        (place / _FILE).write_text(to_json(whole), encoding="utf-8")


def tokens_check(source: Source, folder: Path, texts: Sequence[str]) -> Check:
    """Does tokenizer.json alone make the tokens and the mask that the model makes of `texts`, as one batch?"""
    file = folder / source.layout.transformer / _FILE
    meaning = f"{_FILE} alone makes of the texts what the model's tokenizer makes of them"
    if not file.is_file():
        return Check("tokens", False, meaning, where=f"there is no {_FILE}")
    from tokenizers import Tokenizer

    expected: dict[str, Any] = source.live.preprocess(list(texts))
    encoded = Tokenizer.from_file(str(file)).encode_batch(list(texts))
    for number, (text, one) in enumerate(zip(texts, encoded, strict=True)):
        for found, name in ((one.ids, "input_ids"), (one.attention_mask, "attention_mask")):
            if found != expected[name][number].tolist():
                return Check("tokens", False, meaning, number, len(texts), repr(text[:60]))
    return Check("tokens", True, meaning, len(texts), len(texts))
