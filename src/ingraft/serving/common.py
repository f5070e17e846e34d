"""Questions about a model's files that the rules of several servers ask."""

from __future__ import annotations

from collections.abc import Callable

from ingraft.portable import NEW_TYPES
from ingraft.serving.facts import ModelFacts

Found = Callable[[ModelFacts], str | None]


def newer_types(facts: ModelFacts) -> str | None:
    if facts.is_cross_encoder:  # loaded as a transformers model, without modules.json
        return None
    names = [module.type for module in facts.layout.modules if module.type in NEW_TYPES]
    return f"modules.json has types of Sentence Transformers 5.4, such as {names[0]}" if names else None


def without_pooling_flags(facts: ModelFacts) -> str | None:
    if facts.pooling is None or not facts.pooling[1]:
        return None
    module, config = facts.pooling
    if {"pooling_mode_cls_token", "pooling_mode_mean_tokens"} <= config.keys():
        return None
    return f"{module.path}/config.json has no pooling_mode_cls_token and pooling_mode_mean_tokens"


def newer_files(facts: ModelFacts) -> str | None:
    """What a reader of older names does not find: the modules, or how they pool."""
    return newer_types(facts) or without_pooling_flags(facts)


def modes_besides(*known: str) -> Found:
    """A single pooling mode that is none of `known`."""

    def found(facts: ModelFacts) -> str | None:
        other = [mode for mode in facts.modes if mode not in known]
        return f"pooling is {facts.modes[0]}" if other and len(facts.modes) == 1 else None

    return found


def several_modes(facts: ModelFacts) -> str | None:
    return f"pooling concatenates {', '.join(facts.modes)}" if len(facts.modes) > 1 else None


def pools_without_prompt(facts: ModelFacts) -> str | None:
    if facts.pooling is not None and facts.pooling[1].get("include_prompt") is False:
        return "include_prompt is false: pooling leaves the prompt's tokens out"
    return None


def has_dense(facts: ModelFacts) -> str | None:
    return f"{facts.dense[0][0].path} is a Dense module" if facts.dense else None


def dense_besides(*known: str) -> Found:
    """A Dense module with an activation function that is none of `known`."""

    def found(facts: ModelFacts) -> str | None:
        for module, config in facts.dense:
            activation = config.get("activation_function")
            if isinstance(activation, str) and activation not in known:
                return f"{module.path} has the activation function {activation}"
        return None

    return found


def dense_with_residual(facts: ModelFacts) -> str | None:
    found = [module.path for module, config in facts.dense if config.get("use_residual")]
    return f"{found[0]} adds its input to its output (use_residual)" if found else None


def other_modules(facts: ModelFacts) -> str | None:
    if not facts.is_embedder or "Router" in facts.other_modules or not facts.other_modules:
        return None
    return f"the model has a {facts.other_modules[0]} module"


def lowercasing_outside(facts: ModelFacts) -> str | None:
    if facts.sentence.get("do_lower_case") is True and not facts.lowercases:
        return "sentence_bert_config.json says do_lower_case, and tokenizer.json does not lower the case"
    return None


def prompts(facts: ModelFacts) -> str | None:
    return f"the model has prompts: {', '.join(facts.prompts)}" if facts.prompts else None


def default_prompt(facts: ModelFacts) -> str | None:
    name = facts.settings.get("default_prompt_name")
    return f"every text gets the prompt {name!r} by default" if name else None


def not_normalized(facts: ModelFacts) -> str | None:
    return "the model has no Normalize module" if facts.is_embedder and not facts.normalizes else None


def outside_root(facts: ModelFacts) -> str | None:
    if facts.in_root:
        return None
    where = facts.layout.transformer
    return f"config.json lies in {where}, not beside modules.json" if where else "there is no config.json"


def missing(*names: str) -> Found:
    """Files that are not in the root, where the transformer itself is."""

    def found(facts: ModelFacts) -> str | None:
        gone = [name for name in names if name not in facts.files] if facts.in_root else []
        return f"{gone[0]} is missing" if gone else None

    return found


def of_class(*names: str) -> Found:
    """The model is of one of these Sentence Transformers classes."""

    def found(facts: ModelFacts) -> str | None:
        return f"the model is a {facts.layout.model_class}" if facts.layout.model_class in names else None

    return found


def routes(facts: ModelFacts) -> str | None:
    return "a Router chooses between modules" if "Router" in facts.other_modules else None


def without_length(facts: ModelFacts) -> str | None:
    if facts.layout.is_sentence_transformers and not isinstance(facts.sentence.get("max_seq_length"), int):
        return "sentence_bert_config.json has no max_seq_length"
    return None


def length_of_its_own(facts: ModelFacts) -> str | None:
    """A maximum length that differs from the number of positions."""
    length, positions = facts.sentence.get("max_seq_length"), facts.config.get("max_position_embeddings")
    return f"texts are cut at {length} tokens" if isinstance(length, int) and length != positions else None
