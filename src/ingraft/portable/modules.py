"""modules.json and the configs of the modules after the transformer, in the names that every release since 3.0 knows.

Sources: sentence-transformers 6.2 `util/deprecated_import.py` (old type → where the class is now), its
`base/modules/module.py` (`config_key_renames`: an old key is read as the new one), and the constructors of 3.4 and
5.1, which take a config's keys as arguments and refuse any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# In the order in which several modes are concatenated, by old and new releases alike.
POOLING_FLAGS: Mapping[str, str] = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_MODELS = "sentence_transformers.models."
_SPARSE_MODELS = "sentence_transformers.sparse_encoder.models."
# Classes that `sentence_transformers.models` has had (Router since 5.0), and where they are now.
_OLD_TYPES: Mapping[str, str] = {
    **{
        f"sentence_transformers.base.modules.{place}": f"{_MODELS}{place.rsplit('.', 1)[-1]}"
        for place in ("transformer.Transformer", "dense.Dense", "normalize.Normalize", "router.Router")
    },
    **{
        f"sentence_transformers.sentence_transformer.modules.{place}": f"{_MODELS}{place.rsplit('.', 1)[-1]}"
        for place in (
            "pooling.Pooling",
            "normalize.Normalize",
            "dropout.Dropout",
            "layer_norm.LayerNorm",
            "lstm.LSTM",
            "cnn.CNN",
            "weighted_layer_pooling.WeightedLayerPooling",
            "word_embeddings.WordEmbeddings",
            "word_weights.WordWeights",
            "bow.BoW",
            "static_embedding.StaticEmbedding",
        )
    },
    **{
        f"sentence_transformers.sparse_encoder.modules.{place}": f"{_SPARSE_MODELS}{place.rsplit('.', 1)[-1]}"
        for place in (
            "mlm_transformer.MLMTransformer",
            "splade_pooling.SpladePooling",
            "sparse_auto_encoder.SparseAutoEncoder",
            "sparse_static_embedding.SparseStaticEmbedding",
        )
    },
}
NEW_TYPES = frozenset(_OLD_TYPES)
_NEW_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
# Modules whose width has been called `word_embedding_dimension` and still may be.
_RENAMED: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("Pooling", "WeightedLayerPooling", "LSTM", "SpladePooling"),
        ("embedding_dimension", "word_embedding_dimension"),
    ),
    "CNN": ("in_embedding_dimension", "in_word_embedding_dimension"),
}
_SENTENCE_KEYS = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
# Keys that older constructors refuse, with the value that newer ones take where the key is missing.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"Dense": {**_SENTENCE_KEYS, "use_residual": False}}
CONFIG_NAMES: Mapping[str, str] = {"LSTM": "lstm_config.json", "CNN": "cnn_config.json"}


def old_type(name: str, task: str | None, *, legacy: bool) -> str:
    """The type under which releases since 3.0 (sparse encoders: 5.0) find the class; `task` is the transformer's.

    Without `legacy` the class is still called as it was.
    """
    if name == _NEW_TRANSFORMER and task == "fill-mask":  # to a `models.Transformer` older releases give no head
        return f"{_SPARSE_MODELS}MLMTransformer" if legacy else name
    return _OLD_TYPES.get(name, name)


def module_config(kind: str, config: Mapping[str, Any], *, legacy: bool) -> dict[str, Any]:
    """The config of a module of the class `kind` with older names beside the newer, with `legacy` in their place."""
    found = dict(config)
    if not legacy:
        return {**found, **_missing(_with_flags(found), found)} if kind == "Pooling" else found
    if kind in _RENAMED:
        new, old = _RENAMED[kind]
        if new in found:
            found = {old if key == new else key: value for key, value in found.items() if key != old}
    for key, default in _DEFAULTS.get(kind, {}).items():
        if found.get(key, default) == default:
            found.pop(key, None)
    return _with_flags(found) if kind == "Pooling" else found


def _missing(values: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in known}


def pooling_modes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The modes of a pooling config in either schema, as sentence-transformers 6.2 reads it."""
    declared = config.get("pooling_mode")
    if isinstance(declared, str):
        return (declared,)
    if isinstance(declared, Sequence):
        return tuple(str(mode) for mode in declared)
    return tuple(mode for mode, flag in POOLING_FLAGS.items() if config.get(flag)) or ("mean",)


def _with_flags(config: dict[str, Any]) -> dict[str, Any]:
    """All the flags, and `pooling_mode` beside them where it is one mode: a list is no argument for older releases."""
    modes = pooling_modes(config)
    in_order = [mode for mode in POOLING_FLAGS if mode in modes]
    if list(modes) != in_order:
        return config  # flags cannot say this: an unknown mode, or another order of concatenation
    flags = {flag: mode in modes for mode, flag in POOLING_FLAGS.items()}
    found = {key: value for key, value in config.items() if key not in flags and key != "pooling_mode"}
    if len(modes) == 1:
        found["pooling_mode"] = modes[0]
    return {**found, **flags}
