"""llama.cpp: conversion to GGUF and its server, from its source of 2026 (with pull request 22087); it was not run."""

from __future__ import annotations

from ingraft.serving import common
from ingraft.serving.facts import ModelFacts
from ingraft.serving.rule import PORTABLE, Rule

_MAP = "conversion/__init__.py, TEXT_MODEL_MAP"
_POOLING = "conversion/base.py, _try_set_pooling_type"
# Architectures of its map that embed text and whose pooling is written into the GGUF file.
_ARCHITECTURES = {
    "BertModel", "BertForMaskedLM", "BertForSequenceClassification", "CamembertModel", "DistilBertModel",
    "DistilBertForSequenceClassification", "RobertaModel", "RobertaForSequenceClassification", "XLMRobertaModel",
    "XLMRobertaForSequenceClassification", "ModernBertModel", "ModernBertForSequenceClassification", "NomicBertModel",
    "JinaBertModel", "Gemma3TextModel", "Qwen2Model", "Qwen2ForCausalLM", "Qwen3Model", "Qwen3ForCausalLM",
    "LlamaModel", "LlamaForCausalLM", "LlamaBidirectionalModel", "MistralForCausalLM", "T5EncoderModel",
}  # fmt: skip


def _unknown_architecture(facts: ModelFacts) -> str | None:
    if facts.in_root and facts.architecture not in _ARCHITECTURES:
        return f"the architecture is {facts.architecture or 'not named'}"
    return None


RULES: tuple[Rule[ModelFacts], ...] = (
    Rule("refuses", common.outside_root, "convert_hf_to_gguf.py: reads DIR/config.json", "Convert that folder."),
    Rule("refuses", _unknown_architecture, _MAP, ""),
    Rule("refuses", common.of_class("SparseEncoder", "MultiVectorEncoder"), "tools/server: one vector for a text", ""),
    Rule("refuses", common.modes_besides("cls", "mean", "lasttoken"), _POOLING, ""),
    Rule("differs", common.several_modes, f"{_POOLING}: takes the first of mean, cls, lasttoken", ""),
    Rule("differs", common.pools_without_prompt, f"{_POOLING}: does not read it", ""),
    Rule(
        "differs",
        common.has_dense,
        "convert_hf_to_gguf.py: leaves Dense out, except of Gemma 3 with --sentence-transformers-dense-modules",
        "",
    ),
    Rule("differs", common.other_modules, "convert_hf_to_gguf.py: reads the transformer and Pooling", ""),
    Rule("differs", common.lowercasing_outside, "convert_hf_to_gguf.py: does not read it", "Lower the case first."),
    Rule("note", common.of_class("CrossEncoder"), "tools/server, --reranking", "Start it with --reranking."),
    Rule("note", common.newer_files, f"{_POOLING}: before llama.cpp pull request 22087", PORTABLE),
    Rule("note", common.not_normalized, "tools/server, embd_normalize", 'Ask with "embd_normalize": -1.'),
    Rule("note", common.prompts, "tools/server: knows no prompts", "Put the prompt before each text."),
    Rule("note", common.length_of_its_own, "tools/server: cuts no text", "Cut longer texts first."),
)
