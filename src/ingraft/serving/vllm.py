"""vLLM 0.32, from its source and from runs on the CPU; what a release before it does differently is marked."""

from __future__ import annotations

from ingraft.serving import common
from ingraft.serving.facts import ModelFacts
from ingraft.serving.rule import PORTABLE, Rule

_CONFIG = "vllm/transformers_utils/config.py"
_ACTIVATIONS = ("GELU", "ReLU", "SiLU", "Tanh", "Sigmoid")
_KNOWN_ACTIVATIONS = (
    "torch.nn.modules.linear.Identity",
    *(f"torch.nn.modules.activation.{name}" for name in _ACTIVATIONS),
)
# Architectures of its own registry that pool; others run through its Transformers backend, if at all.
_NATIVE = {
    "BertModel", "BertForMaskedLM", "RobertaModel", "RobertaForMaskedLM", "XLMRobertaModel", "ModernBertModel",
    "NomicBertModel", "GteModel", "GteNewModel", "Gemma2Model", "Gemma3TextModel", "LlamaModel",
    "LlamaBidirectionalModel", "MistralModel", "Qwen2Model", "Qwen2ForCausalLM", "Qwen3Model", "Qwen3ForCausalLM",
    "BertForSequenceClassification", "RobertaForSequenceClassification", "XLMRobertaForSequenceClassification",
    "ModernBertForSequenceClassification", "Qwen2ForSequenceClassification", "Qwen3ForSequenceClassification",
}  # fmt: skip


def _splade(facts: ModelFacts) -> str | None:
    sparse = facts.layout.model_class == "SparseEncoder" and facts.architecture == "BertForMaskedLM"
    return "the model is a SparseEncoder on BertForMaskedLM" if sparse else None


def _other_kind(facts: ModelFacts) -> str | None:
    return None if _splade(facts) else common.of_class("SparseEncoder", "MultiVectorEncoder")(facts)


def _foreign(facts: ModelFacts) -> str | None:
    if not facts.in_root or facts.architecture in _NATIVE:
        return None
    return f"the architecture {facts.architecture or 'is not named and'} is not in its list"


def _scaled_mean(facts: ModelFacts) -> str | None:
    if facts.modes == ("mean_sqrt_len_tokens",) and not facts.normalizes:
        return "pooling is mean_sqrt_len_tokens"
    return None


RULES: tuple[Rule[ModelFacts], ...] = (
    Rule(
        "refuses",
        common.outside_root,
        "vllm/config/model.py: reads DIR/config.json",
        "Merge one of its transformers alone.",
    ),
    Rule("refuses", _other_kind, "vllm/model_executor/models/registry.py", ""),
    Rule(
        "differs",
        _splade,
        "vllm/model_executor/models/bert.py, BertForMaskedLM: one vector for each token",
        'Start it with --hf-overrides \'{"architectures": ["BertSpladeSparseEmbeddingModel"]}\'.',
    ),
    Rule(
        "differs",
        common.newer_files,
        f"{_CONFIG}, get_pooling_config; vLLM issue 45995: 0.23 pools by its default in silence, 0.32 reads both",
        PORTABLE,
        (0, 32),
    ),
    Rule(
        "differs",
        common.modes_besides("cls", "mean", "lasttoken", "mean_sqrt_len_tokens"),
        f"{_CONFIG}, get_pooling_config: falls back to the architecture's default",
        "",
    ),
    Rule("differs", _scaled_mean, f"{_CONFIG}, parse_pooling_type: takes mean", ""),
    Rule("differs", common.several_modes, f"{_CONFIG}, get_pooling_config: takes the last one", ""),
    Rule("differs", common.pools_without_prompt, f"{_CONFIG}, get_pooling_config: does not read it", ""),
    Rule(
        "differs",
        common.dense_besides(*_KNOWN_ACTIVATIONS),
        "vllm/model_executor/models/adapters.py, _load_st_projector: then leaves Dense out",
        "",
    ),
    Rule("differs", common.dense_with_residual, "vllm/model_executor/models/adapters.py, _load_st_projector", ""),
    Rule("differs", common.other_modules, f"{_CONFIG}: reads Pooling, Dense and Normalize", ""),
    Rule("note", _foreign, "vllm/model_executor/models/registry.py", "Try it: the Transformers backend may run it."),
    Rule("note", common.prompts, "vllm/entrypoints/pooling: knows no prompts", "Put the prompt before each text."),
    Rule(
        "note",
        common.length_of_its_own,
        "vllm/config/model.py, _get_and_verify_max_len: longer texts are refused",
        "Ask with truncate_prompt_tokens: -1.",
    ),
)
