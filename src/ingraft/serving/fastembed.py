"""fastembed 0.9.1 with a model added by `TextEmbedding.add_custom_model`, from its source and from runs."""

from __future__ import annotations

from ingraft.serving import common
from ingraft.serving.facts import ModelFacts
from ingraft.serving.rule import PORTABLE, Rule

_LOADER = "fastembed/common/preprocessor_utils.py, load_tokenizer"
_CUSTOM = "fastembed/text/custom_text_embedding.py"
_ADD = "fastembed/text/text_embedding.py, add_custom_model"


def _no_onnx(facts: ModelFacts) -> str | None:
    return None if any(path.endswith(".onnx") for path in facts.files) else "there is no ONNX file"


def _limit(facts: ModelFacts) -> float | None:
    limits = [facts.tokenizer.get(key) for key in ("model_max_length", "max_length")]
    known = [limit for limit in limits if isinstance(limit, (int, float))]
    return min(known) if known else None


def _no_limit(facts: ModelFacts) -> str | None:
    limit = _limit(facts)
    if "tokenizer_config.json" not in facts.files or (limit is not None and limit < 2**32):
        return None
    return "tokenizer_config.json has no model_max_length that is a limit"


def _another_limit(facts: ModelFacts) -> str | None:
    limit, length = _limit(facts), facts.sentence.get("max_seq_length")
    if limit is None or not isinstance(length, int) or length == limit:
        return None
    return f"texts are cut at {length} tokens, tokenizer_config.json says {limit:g}"


RULES: tuple[Rule[ModelFacts], ...] = (
    Rule("refuses", _no_onnx, f"{_ADD}: model_file", "Export it: ingraft export DIR OUT --to onnx."),
    Rule("refuses", common.outside_root, _LOADER, "Put config.json and tokenizer beside the ONNX folder."),
    Rule("refuses", common.missing("tokenizer.json", "tokenizer_config.json"), _LOADER, "Save a fast tokenizer."),
    Rule("refuses", common.missing("special_tokens_map.json"), f"{_LOADER}, load_special_tokens", PORTABLE),
    Rule("refuses", _no_limit, _LOADER, "Put model_max_length into tokenizer_config.json."),
    Rule(
        "refuses",
        common.of_class("SparseEncoder", "MultiVectorEncoder"),
        "fastembed/sparse, fastembed/late_interaction: models of its own list alone",
        "",
    ),
    Rule("refuses", common.routes, _ADD, ""),
    Rule("refuses", common.modes_besides("cls", "mean", "lasttoken"), f"{_CUSTOM}, _pool", ""),
    Rule("differs", common.several_modes, f"{_CUSTOM}, _pool: one mode", ""),
    Rule("differs", common.has_dense, f"{_CUSTOM}: pools and normalises", "Export an ONNX file with Dense in it."),
    Rule("differs", common.other_modules, f"{_CUSTOM}: pools and normalises", ""),
    Rule("differs", common.pools_without_prompt, f"{_CUSTOM}, _pool", ""),
    Rule("differs", common.lowercasing_outside, _LOADER, "Lower the case first."),
    Rule("differs", _another_limit, _LOADER, "Set model_max_length and max_length to that."),
    Rule("note", common.prompts, "fastembed/text/text_embedding_base.py", "Put the prompt before each text."),
)
