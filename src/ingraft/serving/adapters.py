"""Which servers take the adapter itself, beside its base, and with which limits."""

from __future__ import annotations

from ingraft.adapter import Adapter
from ingraft.layout import read_layout
from ingraft.methods.table import method_for
from ingraft.serving import sentence_transformers
from ingraft.serving.facts import ModelFacts, read_facts
from ingraft.serving.rule import Rule

_HELPER = "vllm/lora/peft_helper.py"
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_CONVERTER = "convert_lora_to_gguf.py"
MERGE = "Merge it."


def _always(text: str) -> Rule[Adapter]:
    return Rule("refuses", lambda adapter: "it is an adapter", text, MERGE)


def _not_lora(adapter: Adapter) -> str | None:
    return None if adapter.config.peft_type == "LORA" else f"the method is {method_for(adapter.config.raw).name}"


def _says(key: str) -> Rule[Adapter]:
    def found(adapter: Adapter) -> str | None:
        return f"adapter_config.json says {key}" if adapter.config.raw.get(key) else None

    return Rule("refuses", found, f"{_HELPER}, _validate_features", MERGE)


def _saved(adapter: Adapter) -> str | None:
    other = [name for name in adapter.config.modules_to_save if name not in ("classifier", "score")]
    return f"modules_to_save has {', '.join(other)}" if other else None


def _other_tensors(adapter: Adapter) -> list[str]:
    parts = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
    return sorted(key for key in adapter.tensors if not key.endswith(parts))


def _any_saved(adapter: Adapter) -> str | None:
    other = _other_tensors(adapter)
    return f"the file has {other[0]}" if other else None


def _unsupported_weight(adapter: Adapter) -> str | None:
    heads = (".score", ".classifier")
    other = [key for key in _other_tensors(adapter) if not key.rsplit(".", 1)[0].endswith(heads)]
    other = [key for key in other if "base_layer" not in key]
    return f"the file has {other[0]}" if other else None


def _bias(adapter: Adapter) -> str | None:
    bias = adapter.config.raw.get("bias", "none")
    return f"bias is {bias!r}" if bias != "none" else None


def _start(adapter: Adapter) -> str | None:
    start = adapter.config.raw.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        return f"init_lora_weights is {start!r}, which changes the base"
    return None


def _rank(adapter: Adapter) -> int:
    ranks = [adapter.config.raw.get("r"), *(adapter.config.raw.get("rank_pattern") or {}).values()]
    return max((rank for rank in ranks if isinstance(rank, int)), default=0)


def _too_high(adapter: Adapter) -> str | None:
    return f"the rank is {_rank(adapter)}" if _rank(adapter) > _LORA_RANKS[-1] else None


def _higher(adapter: Adapter) -> str | None:
    rank = _rank(adapter)
    if not 16 < rank <= _LORA_RANKS[-1]:
        return None
    return f"the rank is {rank}: --max-lora-rank {next(limit for limit in _LORA_RANKS if limit >= rank)} is needed"


def _trained_modules(adapter: Adapter) -> str | None:
    """Weights of other modules beside the adapter: a server that takes LoRA reads those of the base."""
    kinds = [module.kind for module in read_layout(adapter.root).modules if module.kind in ("Dense", "LayerNorm")]
    return f"its directory has a {kinds[0]} module of its own, the base's is taken" if kinds else None


def _scaled_otherwise(adapter: Adapter) -> str | None:
    raw = adapter.config.raw
    keys = [key for key in ("use_rslora", "alpha_pattern", "rank_pattern") if raw.get(key)]
    return f"adapter_config.json says {keys[0]}, so that the scale is not α/r everywhere" if keys else None


def _no_types(adapter: Adapter) -> str | None:
    return None if read_layout(adapter.root).is_sentence_transformers else "there is no modules.json"


def _of_directory(rule: Rule[ModelFacts]) -> Rule[Adapter]:
    """A rule about a model's files, asked of the adapter's directory, which has most of them too."""

    def found(adapter: Adapter) -> str | None:
        return rule.found(read_facts(adapter.root))

    return Rule(rule.effect, found, rule.source, MERGE, rule.before)


_PEFT = "sentence_transformers/models/Transformer.py, _load_config"

SENTENCE_TRANSFORMERS: tuple[Rule[Adapter], ...] = (
    *map(_of_directory, sentence_transformers.RULES),
    Rule("note", lambda adapter: "it is an adapter", _PEFT, "peft must be installed, and the base be at hand."),
    Rule("note", _no_types, _PEFT, "Load the base, and model.load_adapter(DIR)."),
)
VLLM: tuple[Rule[Adapter], ...] = (
    Rule("refuses", _not_lora, f"{_HELPER}: reads r and lora_alpha", MERGE),
    *map(_says, ("use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora")),
    Rule("refuses", _saved, f"{_HELPER}, _validate_features", MERGE),
    Rule("refuses", _bias, f"{_HELPER}, validate_legal", MERGE),
    Rule("refuses", _start, f"{_HELPER}, _init_is_supported", MERGE),
    Rule("refuses", _unsupported_weight, "vllm/lora/utils.py, parse_fine_tuned_lora_name", MERGE),
    Rule("refuses", _too_high, "vllm/config/lora.py, MaxLoRARanks", MERGE),
    Rule("differs", _trained_modules, "vllm/lora: adapts linear layers alone", MERGE),
    Rule("note", _higher, "vllm/config/lora.py, max_lora_rank: 16", "Start it so."),
    Rule(
        "note",
        lambda adapter: "it is an adapter",
        "vllm/lora",
        "Start it on the base with --enable-lora --lora-modules NAME=DIR, and ask for NAME.",
    ),
)
LLAMA_CPP: tuple[Rule[Adapter], ...] = (
    Rule("refuses", _not_lora, f"{_CONVERTER}: lora_A and lora_B", MERGE),
    Rule("refuses", _any_saved, f"{_CONVERTER}, get_tensors: unexpected name", MERGE),
    Rule("differs", _scaled_otherwise, f"{_CONVERTER}, set_gguf_parameters: one lora_alpha", MERGE),
    Rule("note", lambda adapter: "it is an adapter", _CONVERTER, "Convert it, and start it with --lora."),
)
TEI = (_always("router, backends: nothing reads adapter_config.json"),)
INFINITY = (_always("infinity_emb/inference/select_model.py: opens DIR/config.json, which an adapter has not"),)
FASTEMBED = (_always("fastembed/common/model_management.py: ONNX models"),)
