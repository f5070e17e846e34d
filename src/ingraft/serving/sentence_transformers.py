"""Releases of Sentence Transformers, and what they take from the transformers that they are installed with."""

from __future__ import annotations

from typing import Any

from ingraft.portable import POOLING_FLAGS, module_config
from ingraft.serving.common import newer_types, of_class, routes
from ingraft.serving.facts import ModelFacts
from ingraft.serving.rule import LEGACY, PORTABLE, Rule

_MODELS = "sentence_transformers/models/"
_SENTENCE_KEYS = {
    "max_seq_length", "do_lower_case", "model_args", "tokenizer_args", "config_args", "cache_dir",
    "tokenizer_name_or_path",
}  # fmt: skip
_DENSE_KEYS = {"in_features", "out_features", "bias", "activation_function", "init_weight", "init_bias"}
# The rotary base that transformers 4 takes without a word from the file, where it is not 10,000.
_ROPE_DEFAULTS = {"modernbert": (160000.0, 10000.0), "gemma3_text": (1000000.0, 10000.0)}
_OLDER_ROPE_NAMES = {
    "modernbert": ("global_rope_theta", "local_rope_theta"),
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
}


def _sentence_keys(facts: ModelFacts) -> str | None:
    if facts.layout.model_class not in ("SentenceTransformer", "SparseEncoder"):
        return None
    unknown = sorted(facts.sentence.keys() - _SENTENCE_KEYS)
    return f"sentence_bert_config.json has keys of 5.4 and later: {', '.join(unknown)}" if unknown else None


def _more_than_text(facts: ModelFacts) -> bool:
    config = facts.sentence.get("modality_config")
    return isinstance(config, dict) and set(config) != {"text"}


def _text_keys(facts: ModelFacts) -> str | None:
    return None if _more_than_text(facts) else _sentence_keys(facts)


def _modality_keys(facts: ModelFacts) -> str | None:
    return _sentence_keys(facts) if _more_than_text(facts) else None


def _pooling_keys(facts: ModelFacts) -> str | None:
    if facts.pooling and "embedding_dimension" in facts.pooling[1]:
        return f"{facts.pooling[0].path}/config.json says embedding_dimension"
    return None


def _pooling_list(facts: ModelFacts) -> str | None:
    if facts.pooling and isinstance(facts.pooling[1].get("pooling_mode"), list) and not _pooling_order(facts):
        return f"{facts.pooling[0].path}/config.json has a list as pooling_mode"
    return None


def _pooling_order(facts: ModelFacts) -> str | None:
    known = [mode for mode in POOLING_FLAGS if mode in facts.modes]
    if facts.pooling and list(facts.modes) != known:
        return f"pooling concatenates {', '.join(facts.modes)}, in an order that older releases do not know"
    return None


def _dense_keys(facts: ModelFacts) -> str | None:
    for module, config in facts.dense:
        unknown = sorted(config.keys() - _DENSE_KEYS)
        if unknown and not _dense_feature(facts):
            return f"{module.path}/config.json has keys that Dense did not take: {', '.join(unknown)}"
    return None


def _dense_feature(facts: ModelFacts) -> str | None:
    """Keys of a Dense that say something which older releases cannot do."""
    for module, config in facts.dense:
        left = sorted(module_config("Dense", config, legacy=True).keys() - _DENSE_KEYS)
        if left:
            return f"{module.path} has {', '.join(left)}, which Dense did not have"
    return None


def _route_mappings(facts: ModelFacts) -> str | None:
    parameters = facts.router.get("parameters")
    if isinstance(parameters, dict) and "route_mappings" in parameters:
        return "router_config.json has route_mappings"
    return None


def _tokenizer_class(facts: ModelFacts) -> str | None:
    if facts.tokenizer.get("tokenizer_class") == "TokenizersBackend":
        return "tokenizer_config.json names the class TokenizersBackend"
    return None


def _token_list(facts: ModelFacts) -> str | None:
    if isinstance(facts.tokenizer.get("extra_special_tokens"), list):
        return "tokenizer_config.json has a list as extra_special_tokens"
    return None


def _rotary_base(facts: ModelFacts) -> str | None:
    parameters: Any = facts.config.get("rope_parameters")
    if not isinstance(parameters, dict):
        return None
    theta = parameters.get("rope_theta")
    if theta is not None:
        unread = "rope_theta" not in facts.config and theta != 10000.0
        scaled = parameters.get("rope_type", "default") != "default" and "rope_scaling" not in facts.config
        return "config.json has its rotary embeddings under rope_parameters alone" if unread or scaled else None
    names, defaults = (known.get(facts.model_type) for known in (_OLDER_ROPE_NAMES, _ROPE_DEFAULTS))
    layers = [parameters.get(layer) for layer in ("full_attention", "sliding_attention")]
    for name, layer, default in zip(names or (), layers, defaults or (), strict=False):
        value = layer.get("rope_theta") if isinstance(layer, dict) else None
        if name not in facts.config and value not in (None, default):
            return f"config.json has its rotary base under rope_parameters alone, not as {name}"
    return None


_TRANSFORMERS_4 = (5, 2)  # earlier releases require transformers < 5

RULES: tuple[Rule[ModelFacts], ...] = (
    Rule("refuses", newer_types, "SentenceTransformer.py, _load_sbert_model: imports the type", PORTABLE, (5, 4)),
    Rule("refuses", _text_keys, f"{_MODELS}Transformer.py, load: the file's keys are arguments", LEGACY, (5, 4)),
    Rule(
        "refuses",
        _modality_keys,
        f"{_MODELS}Transformer.py, load: the file's keys are arguments",
        "Take transformer_task, modality_config and module_output_name out, if it is used with plain texts alone.",
        (5, 4),
    ),
    Rule("refuses", _pooling_keys, f"{_MODELS}Pooling.py, load: the file's keys are arguments", LEGACY, (5, 4)),
    Rule("refuses", _pooling_list, f"{_MODELS}Pooling.py, __init__: pooling_mode.lower()", LEGACY, (5, 4)),
    Rule("refuses", _pooling_order, f"{_MODELS}Pooling.py, forward: an order of its own", "", (5, 4)),
    Rule("refuses", _dense_keys, f"{_MODELS}Dense.py, load: the file's keys are arguments", LEGACY, (5, 4)),
    Rule("refuses", _dense_feature, f"{_MODELS}Dense.py, load: the file's keys are arguments", "", (5, 4)),
    Rule("refuses", _route_mappings, f"{_MODELS}Router.py, load: the parameters are arguments", LEGACY, (5, 4)),
    Rule(
        "refuses",
        _tokenizer_class,
        "transformers 4.57, models/auto/tokenization_auto.py: knows no such class",
        PORTABLE,
        _TRANSFORMERS_4,
    ),
    Rule(
        "refuses",
        _token_list,
        "transformers 4.57, tokenization_utils_base.py, _set_model_specific_special_tokens",
        PORTABLE,
        _TRANSFORMERS_4,
    ),
    Rule(
        "differs",
        _rotary_base,
        "transformers 4.57, models/*/configuration_*.py: reads rope_theta, else its default",
        PORTABLE,
        _TRANSFORMERS_4,
    ),
    Rule("refuses", routes, f"{_MODELS}__init__.py: Router came with 5.0", "Use 5.0 or later.", (5, 0)),
    Rule(
        "refuses",
        of_class("SparseEncoder"),
        "sentence_transformers/__init__.py: SparseEncoder came with 5.0",
        "Use 5.0 or later.",
        (5, 0),
    ),
    Rule(
        "refuses",
        of_class("MultiVectorEncoder"),
        "sentence_transformers 5.4: has no multi_vector_encoder",
        "Use 6.2.",
        (6, 0),
    ),
)
