"""sentence_bert_config.json and config.json as older releases and servers read them.

Sources: sentence-transformers 3.4 `models/Transformer.py` (takes every key of sentence_bert_config.json as an argument)
and 6.2 `base/modules/transformer.py` (what it takes where a key is missing); transformers 5.23
`modeling_rope_utils.py` (`rope_theta` and `rope_scaling` are read into `rope_parameters`, which transformers 4 does not
know); text-embeddings-inference `backends/candle/src/models/` (the fields that each config must have).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Their positions begin after the padding token's number, so that the table's first rows are never used.
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text"}
# model type → older names of the rotary base in layers with full and with sliding attention
_ROPE_BY_LAYER: Mapping[str, tuple[str, str]] = {
    "modernbert": ("global_rope_theta", "local_rope_theta"),
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
}
_OUTPUT_OF_TASK = {"feature-extraction": "last_hidden_state", "fill-mask": "logits"}
_UNBOUNDED = 10**9  # tokenizers without a maximum length say 1e30


def sentence_config(config: Mapping[str, Any], longest: int | None, *, legacy: bool) -> dict[str, Any]:
    """sentence_bert_config.json with `max_seq_length` and `do_lower_case`.

    longest  what `max_seq_length` returns; None where the files do not tell
    legacy   leave out newer keys that say what older releases take for granted
    """
    found = dict(config)
    if legacy and _output_of_task(found) and reads_text_only(found):
        for key in ("transformer_task", "modality_config", "module_output_name"):
            found.pop(key, None)
    if longest is not None and not isinstance(found.get("max_seq_length"), int):
        found = {"max_seq_length": longest, **{key: value for key, value in found.items() if key != "max_seq_length"}}
    if "max_seq_length" in found:
        found.setdefault("do_lower_case", False)
    return found


def reads_text_only(config: Mapping[str, Any]) -> bool:
    """Does a sentence_bert_config.json say no more of its inputs than older releases take for granted?"""
    text = {"text": {"method": "forward", "method_output_name": _output_of_task(config)}}
    output = config.get("module_output_name", "token_embeddings")
    return bool(config.get("modality_config", text) == text and output == "token_embeddings")


def _output_of_task(config: Mapping[str, Any]) -> str | None:
    return _OUTPUT_OF_TASK.get(str(config.get("transformer_task", "feature-extraction")))


def longest_input(config: Mapping[str, Any], tokenizer: Mapping[str, Any] | None) -> int | None:
    """`max_seq_length` as sentence-transformers 6.2 finds it where no file says it; None where that is not certain."""
    positions = config.get("max_position_embeddings")
    if tokenizer is None or not isinstance(positions, int) or positions <= 0:
        return None
    usable = positions
    if str(config.get("model_type")) in _OFFSET_POSITIONS:
        padding = config.get("pad_token_id")
        usable -= (padding if isinstance(padding, int) else 1) + 1
    stated = tokenizer.get("model_max_length")
    longest = min(usable, stated) if isinstance(stated, (int, float)) else usable
    return int(longest) if 0 < longest < _UNBOUNDED else None


def model_config(config: Mapping[str, Any], activation: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """config.json with the older names beside the newer ones, and which were added.

    activation  a CrossEncoder's activation function where it is not the default
    """
    found = dict(config)
    _add_dtype(found)
    _add_rope(found)
    _add_attention_pattern(found)
    if activation and "sentence_transformers" not in found:
        found["sentence_transformers"] = {"activation_fn": activation}
        found.setdefault("sbert_ce_default_activation_function", activation)
    return found, [key for key in found if key not in config] + [
        f"{part}.{key}"
        for part, value in found.items()
        if isinstance(value, dict) and isinstance(config.get(part), dict)
        for key in value
        if key not in config[part]
    ]


def _add_dtype(config: dict[str, Any]) -> None:
    if isinstance(config.get("dtype"), str):
        config.setdefault("torch_dtype", config["dtype"])
    for key, part in config.items():
        if isinstance(part, dict) and isinstance(part.get("dtype"), str):
            config[key] = {**part, "torch_dtype": part.get("torch_dtype", part["dtype"])}


def _add_rope(config: dict[str, Any]) -> None:
    """`rope_theta`, `rope_scaling` and their like, from `rope_parameters`."""
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict):
        return
    if "rope_theta" in parameters:
        config.setdefault("rope_theta", parameters["rope_theta"])
        if "partial_rotary_factor" in parameters:
            config.setdefault("partial_rotary_factor", parameters["partial_rotary_factor"])
        scaling = {k: v for k, v in parameters.items() if k not in ("rope_theta", "partial_rotary_factor")}
        if scaling.get("rope_type", "default") != "default" and "rope_scaling" not in config:
            config["rope_scaling"] = scaling
        return
    names = _ROPE_BY_LAYER.get(str(config.get("model_type")))
    by_layer = [parameters.get(layer) for layer in ("full_attention", "sliding_attention")]
    if names is None or not all(isinstance(part, dict) and "rope_theta" in part for part in by_layer):
        return
    for name, part in zip(names, by_layer, strict=True):
        assert isinstance(part, dict)
        if part.get("rope_type", "default") == "default":
            config.setdefault(name, part["rope_theta"])


def _add_attention_pattern(config: dict[str, Any]) -> None:
    """ModernBERT's `global_attn_every_n_layers`, in the place of which transformers 5 lists the layers' types."""
    layers = config.get("layer_types")
    if config.get("model_type") != "modernbert" or not isinstance(layers, list) or not layers:
        return
    second = next((at for at, kind in enumerate(layers) if at and kind == "full_attention"), len(layers))
    for every in (3, second):  # 3 is the default
        if layers == ["sliding_attention" if at % every else "full_attention" for at in range(len(layers))]:
            config.setdefault("global_attn_every_n_layers", every)
            return
