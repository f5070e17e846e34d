"""The base model of a training run, and the adapter that is put into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingraft.checkpoint import open_checkpoint
from ingraft.errors import UnusableInput, first_line
from ingraft.fingerprint import fingerprint
from ingraft.hub import expanded, local_directory
from ingraft.layout import read_layout
from ingraft.training.config import PromptSettings, TrainingConfig
from ingraft.training.data import TrainingData
from ingraft.training.facts import AdapterFacts, ModelFacts
from ingraft.training.heads import fresh_heads
from ingraft.training.losses import is_splade
from ingraft.training.methods import TrainedMethod
from ingraft.training.quantised import elements
from ingraft.training.targets import Targets, check_modules, choose_targets

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel


def base_directory(config: TrainingConfig) -> tuple[Path, str]:
    """Where the base model's files are, and the name that an adapter should keep of it.

    The name is the Hub id as given, or an absolute path: a relative one would mean another place tomorrow.
    """
    root = local_directory(config.model, role="base model")
    if (root / "adapter_config.json").is_file():
        raise UnusableInput(
            f"{config.model} holds an adapter, expected a base model.",
            hint=f"Merge it first: ingraft merge {config.model} OUTPUT, then train on OUTPUT.",
        )
    is_local = expanded(config.model).is_dir()
    return root, str(root.absolute()) if is_local else config.model


def transformer_of(model: SentenceTransformer) -> PreTrainedModel:
    """The transformers model inside `model`, the one that takes the adapter."""
    transformer = model.transformers_model
    assert transformer is not None, "load_base has seen to it"
    return transformer


def load_base(
    config: TrainingConfig,
    root: Path,
    model_type: str = "SentenceTransformer",
    arguments: Mapping[str, Any] | None = None,
) -> SentenceTransformer:
    """The model in `root`, of a class of Sentence Transformers; UnusableInput when it is none that an adapter can be
    trained on. `arguments` are for its transformer."""
    import sentence_transformers
    from safetensors import SafetensorError

    try:
        # Remote code may live in another repository than the model, so that alone is looked for on the Hub.
        trusted = config.trust_remote_code
        of_type = getattr(sentence_transformers, model_type)
        further = {"model_kwargs": dict(arguments)} if arguments else {}
        model: SentenceTransformer = of_type(
            str(root), trust_remote_code=trusted, local_files_only=not trusted, **further
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        reason = first_line(error)
        hint = "Pass --trust-remote-code if you trust it." if "trust_remote_code" in str(error) else ""
        raise UnusableInput(f"{config.model} cannot be loaded as a base model: {reason}", hint=hint) from None
    if not model.has_peft_compatible_model():
        kinds = ", ".join(type(module).__name__ for module in model)
        raise UnusableInput(
            f"{config.model} has the modules {kinds}; expected a Transformer, which alone takes an adapter."
        )
    if model_type == "SparseEncoder":
        _check_splade(model, config.model, root)
    return model


def _check_splade(model: SentenceTransformer, name: str, root: Path) -> None:
    """Without the head that fills in words there is nothing to adapt."""
    if not is_splade(model) or fresh_heads(transformer_of(model), read_layout(root).transformer_folder):
        raise UnusableInput(
            f"{name} was saved without the head of a masked language model, which a SparseEncoder needs.",
            hint="Take a base that was saved with it, such as naver/splade-v3 or a BertForMaskedLM.",
        )


def model_facts(model: SentenceTransformer, name: str, root: Path) -> ModelFacts:
    from collections import Counter

    dtypes: Counter[str] = Counter()
    nbytes = 0
    for parameter in model.parameters():
        packed = getattr(parameter, "quant_type", None)
        dtypes[packed or str(parameter.dtype).removeprefix("torch.")] += elements(parameter)
        nbytes += parameter.numel() * parameter.element_size()
    return ModelFacts(
        name=name,
        architecture=type(transformer_of(model)).__name__,
        parameters=sum(dtypes.values()),
        nbytes=nbytes,
        dtype=dtypes.most_common(1)[0][0],
        fingerprint=fingerprint(open_checkpoint(read_layout(root).transformer_folder)),
    )


def add_adapter(
    model: SentenceTransformer,
    method: TrainedMethod,
    config: TrainingConfig,
    base: tuple[Path, str],
    prompts: Mapping[str, str],
) -> AdapterFacts:
    """Put a fresh adapter into `model`; everything else in its transformer is frozen, but for heads that are trained
    whole. `base` is the directory of the base model and the name that the adapter keeps of it.

    The adapter's matrices are float32 even on a bfloat16 base, whose precision would swallow small updates.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype

    transformer = transformer_of(model)
    targets = Targets((), ())
    if method.takes_targets:
        targets = choose_targets(transformer, config.target_modules, norms=method.row.kinds == {"norm"})
    heads = tuple(
        dict.fromkeys((*fresh_heads(transformer, read_layout(base[0]).transformer_folder), *config.modules_to_save))
    )
    check_modules(transformer, config.modules_to_save)
    settings = method.config(list(targets.names), list(targets.excluded), list(heads))
    try:
        model.add_adapter(settings, config.adapter_name)
    # NotImplementedError is how PEFT refuses a kind of layer that the method has no adapter for.
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        reason = first_line(error)
        layers = ", ".join(targets.names) or type(transformer).__name__
        raise UnusableInput(f"PEFT cannot adapt {layers} with {method.row.name}: {reason}") from None
    cast_adapter_dtype(transformer, config.adapter_name)
    settings.base_model_name_or_path = base[1]
    if method.takes_targets:
        settings.target_modules = sorted(settings.target_modules)  # a set by now, whose order differs from run to run
    adapted = [name for name, module in transformer.named_modules() if isinstance(module, BaseTunerLayer)]
    inside = {id(parameter) for parameter in transformer.parameters()}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    beside = {name.split(".")[0] for name, parameter in trained.items() if id(parameter) not in inside}
    return AdapterFacts(
        method=method.row.name,
        settings=method.settings,
        target_modules=targets.names,
        excluded_modules=targets.excluded,
        modules=tuple(adapted),
        trainable=sum(parameter.numel() for parameter in trained.values()),
        parameters=sum(elements(parameter) for parameter in model.parameters()),
        heads=heads,
        also_trained=tuple(f"{index} {type(model[int(index)]).__name__}" for index in sorted(beside)),
        prompts=prompts,
    )


def set_prompts(model: SentenceTransformer, prompts: PromptSettings) -> None:
    """Make `prompts` the model's own: they are saved with it, and `encode_query` and `encode_document` use them."""
    for name, prompt in (("query", prompts.query), ("document", prompts.document)):
        if prompt is not None:
            model.prompts[name] = prompt


def prompts_for(model: SentenceTransformer, data: TrainingData) -> dict[str, str]:
    """Role → the prompt that goes before such a text, where there is one: what `encode`, `encode_query` and
    `encode_document` will put there when the model is used."""

    def prompt(*names: str) -> str:
        name = next((name for name in names if name in model.prompts), model.default_prompt_name or "")
        return model.prompts.get(name) or ""

    if type(model).__name__ == "CrossEncoder":
        return {}  # it reads both texts as one, and its own prompts go before that
    if data.kind == "pairs":
        by_role = {role: prompt("document", "passage", "corpus") for role in data.columns}
        by_role["anchor"] = prompt("query")
    else:
        by_role = {role: prompt() for role in data.columns if role not in ("score", "label")}
    return {role: text for role, text in by_role.items() if text}
