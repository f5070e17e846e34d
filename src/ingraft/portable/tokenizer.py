"""tokenizer_config.json and special_tokens_map.json as transformers 4 and servers read them.

Sources: transformers 5.23 `tokenization_utils_tokenizers.py` (PreTrainedTokenizerFast is another name of
TokenizersBackend) and `tokenization_utils_base.py` (`additional_special_tokens` is read as `extra_special_tokens`;
`model_input_names` has no `token_type_ids` by default). transformers 4 knows neither the class nor a list under the
newer name, and gives `token_type_ids` to models that take none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LIST = "additional_special_tokens"


def tokenizer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json with the older names of the class and of the further special tokens."""
    found = dict(config)
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
        found.setdefault("model_input_names", ["input_ids", "attention_mask"])
    if isinstance(found.get("extra_special_tokens"), list) and _LIST not in found:
        found = {_LIST if key == "extra_special_tokens" else key: value for key, value in found.items()}
    return found


def special_tokens_map(config: Mapping[str, Any]) -> dict[str, Any]:
    """special_tokens_map.json out of tokenizer_config.json; empty where that names no special token."""
    found: dict[str, Any] = {}
    for name in _NAMED:
        token = config.get(name)
        if isinstance(token, dict):
            found[name] = {key: value for key, value in token.items() if key not in ("__type", "special")}
        elif token is not None:
            found[name] = token
    if isinstance(config.get(_LIST), list) and config[_LIST]:
        found[_LIST] = config[_LIST]
    return found
