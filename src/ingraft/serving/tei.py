"""text-embeddings-inference 1.9.3, from its source; no server was run for these rules."""

from __future__ import annotations

from ingraft.portable import NEW_TYPES
from ingraft.serving import common
from ingraft.serving.facts import ModelFacts
from ingraft.serving.rule import PORTABLE, Rule

_ROUTER = "router/src/lib.rs"
_CANDLE = "backends/candle/src/"
_ON_CPU = {
    "bert", "deberta-v2", "camembert", "distilbert", "gemma3_text", "gte", "new", "mpnet", "modernbert", "nomic_bert",
    "qwen3", "bidirectional_pplx_qwen3", "roberta", "xlm-roberta",
}  # fmt: skip
_ON_CUDA = {"mistral", "qwen2", "llama", "llama_bidirec"}
_NO_LAST_TOKEN = {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "modernbert", "nomic_bert", "new", "gte"}
_CLASSIFIERS = {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "modernbert", "gte", "new", "deberta-v2"}
_NEEDED = {
    "modernbert": ("global_rope_theta", "local_rope_theta", "global_attn_every_n_layers"),
    "gemma3_text": ("rope_local_base_freq", "_sliding_window_pattern"),
}
_OLD_TYPES = {f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Dense", "Normalize")}
_TANH, _IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"


def _unknown_type(facts: ModelFacts) -> str | None:
    known = _ON_CPU | _ON_CUDA
    return f"the model type is {facts.model_type}" if facts.in_root and facts.model_type not in known else None


def _cuda_only(facts: ModelFacts) -> str | None:
    return f"the model type is {facts.model_type}" if facts.model_type in _ON_CUDA else None


def _lacks_fields(facts: ModelFacts) -> str | None:
    gone = [key for key in _NEEDED.get(facts.model_type, ()) if key not in facts.config]
    return f"config.json has no {gone[0]}" if gone else None


def _no_architectures(facts: ModelFacts) -> str | None:
    return "config.json has no architectures" if facts.in_root and not facts.architecture else None


def _last_token(facts: ModelFacts) -> str | None:
    if facts.modes == ("lasttoken",) and facts.model_type in _NO_LAST_TOKEN:
        return f"pooling is lasttoken, the model type {facts.model_type}"
    return None


def _pooling_elsewhere(facts: ModelFacts) -> str | None:
    if facts.is_embedder and facts.in_root and "1_Pooling/config.json" not in facts.files:
        where = facts.pooling[0].path if facts.pooling else None
        return f"pooling lies in {where}, not in 1_Pooling" if where else "there is no 1_Pooling/config.json"
    return None


def _bert_pooling_elsewhere(facts: ModelFacts) -> str | None:
    return _pooling_elsewhere(facts) if "bert" in facts.model_type.lower() else None


def _other_pooling_elsewhere(facts: ModelFacts) -> str | None:
    return None if "bert" in facts.model_type.lower() else _pooling_elsewhere(facts)


def _dense_not_found(facts: ModelFacts) -> str | None:
    """One unknown type makes it give up on the whole modules.json, and with it on Dense."""
    unknown = [module.type for module in facts.layout.modules if module.type not in _OLD_TYPES]
    newer = [name for name in unknown if name in NEW_TYPES]
    return f"modules.json has the type {(newer or unknown)[0]}" if facts.dense and unknown else None


def _sliding_window(facts: ModelFacts) -> str | None:
    if facts.model_type == "qwen3" and facts.config.get("use_sliding_window"):
        return "config.json says use_sliding_window"
    return None


def _scaled_rope(facts: ModelFacts) -> str | None:
    parameters = facts.config.get("rope_parameters") or facts.config.get("rope_scaling")
    if facts.model_type in ("qwen2", "qwen3") and isinstance(parameters, dict):
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        return f"rotary embeddings are scaled ({kind})" if kind != "default" else None
    return None


def _unserved_reranker(facts: ModelFacts) -> str | None:
    if not facts.is_cross_encoder:
        return None
    if not facts.architecture.endswith("Classification"):
        return f"the architecture {facts.architecture} has no classification head"
    return f"a {facts.model_type} reranker" if facts.model_type not in _CLASSIFIERS else None


def _no_labels(facts: ModelFacts) -> str | None:
    if facts.is_cross_encoder and not {"id2label", "label2id"} <= facts.config.keys():
        return "config.json has no id2label and label2id"
    return None


def _sharded_pickle(facts: ModelFacts) -> str | None:
    wanted = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}
    return "the weights are in several pickled files" if facts.in_root and not wanted & facts.files else None


def _gelu(facts: ModelFacts) -> str | None:
    return "config.json says hidden_act gelu" if facts.config.get("hidden_act") == "gelu" else None


RULES: tuple[Rule[ModelFacts], ...] = (
    Rule(
        "refuses", common.outside_root, f"{_ROUTER}, run: reads DIR/config.json", "Merge one of its transformers alone."
    ),
    Rule("refuses", common.missing("tokenizer.json"), f"{_ROUTER}, run", "Save the tokenizer as a fast one."),
    Rule("refuses", _no_architectures, f"{_ROUTER}, ModelConfig", "Name the class in config.json."),
    Rule("refuses", _unknown_type, f"{_CANDLE}lib.rs, Config", "Export to ONNX, and use its ORT backend."),
    Rule("refuses", _lacks_fields, f"{_CANDLE}models/modernbert.rs, gemma3.rs: fields of the config", PORTABLE),
    Rule("refuses", common.without_length, f"{_ROUTER}, STConfig", PORTABLE),
    Rule("refuses", common.without_pooling_flags, f"{_ROUTER}, PoolConfig", PORTABLE),
    Rule("refuses", common.modes_besides("cls", "mean", "lasttoken"), f"{_ROUTER}, Pool::try_from", ""),
    Rule("refuses", _last_token, f"{_CANDLE}models: pools without last_token", ""),
    Rule("refuses", _other_pooling_elsewhere, f"{_ROUTER}, get_backend_model_type", "Start it with --pooling."),
    Rule(
        "differs", _bert_pooling_elsewhere, f"{_ROUTER}, get_backend_model_type: takes CLS", "Start it with --pooling."
    ),
    Rule("differs", common.several_modes, f"{_ROUTER}, Pool::try_from: takes the first of cls, mean, lasttoken", ""),
    Rule("differs", common.pools_without_prompt, f"{_ROUTER}, PoolConfig: does not read it", ""),
    Rule("differs", _dense_not_found, "backends/src/lib.rs, ModuleType: then leaves Dense out", PORTABLE),
    Rule("refuses", common.dense_besides(_TANH, _IDENTITY), f"{_CANDLE}models/dense.rs, DenseActivation", ""),
    Rule("differs", common.dense_with_residual, f"{_CANDLE}models/dense.rs: does not add it", ""),
    Rule("differs", common.other_modules, "backends/src/lib.rs, ModuleType: no such module", ""),
    Rule("differs", common.lowercasing_outside, f"{_ROUTER}, STConfig: does not read it", "Lower the case first."),
    Rule("refuses", _sliding_window, f"{_CANDLE}models/qwen3.rs", ""),
    Rule("differs", _scaled_rope, f"{_CANDLE}models/qwen3.rs, load: without scaling", ""),
    Rule("refuses", _unserved_reranker, f"{_ROUTER}, get_backend_model_type; {_CANDLE}models", ""),
    Rule("refuses", _no_labels, f"{_ROUTER}, run: ModelType::Classifier", "Put both into config.json."),
    Rule("refuses", _sharded_pickle, f"{_CANDLE}lib.rs, CandleBackend::new", "Store them as safetensors."),
    Rule("refuses", common.of_class("MultiVectorEncoder"), f"{_ROUTER}, get_backend_model_type: pools always", ""),
    Rule(
        "note",
        common.of_class("SparseEncoder"),
        f"{_ROUTER}, get_backend_model_type",
        "Start it with --pooling splade.",
    ),
    Rule("note", _cuda_only, f"{_CANDLE}lib.rs, CandleBackend::new", "It needs CUDA, float16 and flash attention."),
    Rule("note", common.default_prompt, f"{_ROUTER}, run", "Start it with --default-prompt-name."),
    Rule("note", common.prompts, "router/src/http/types.rs, prompt_name", "Name the prompt in each request."),
    Rule("note", common.not_normalized, "router/src/http/types.rs, normalize", 'Ask /embed with "normalize": false.'),
    Rule("note", _gelu, f"{_CANDLE}lib.rs: takes the tanh approximation", "Vectors differ in the last digits."),
)
