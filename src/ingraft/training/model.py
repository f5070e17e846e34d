"""The base model of a training run, and the adapter that is put into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ingraft.errors import UnusableInput
from ingraft.hub import local_directory
from ingraft.training.config import TrainingConfig
from ingraft.training.data import TrainingData
from ingraft.training.facts import AdapterFacts, ModelFacts
from ingraft.training.targets import choose_targets

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


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
    is_local = Path(config.model).expanduser().is_dir()
    return root, str(root.absolute()) if is_local else config.model


def load_base(config: TrainingConfig, root: Path) -> SentenceTransformer:
    """The model in `root`; UnusableInput when it is none that an adapter can be trained on."""
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(str(root), trust_remote_code=config.trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "Pass --trust-remote-code if you trust it." if "trust_remote_code" in str(error) else ""
        raise UnusableInput(f"{config.model} cannot be loaded as a base model: {reason}", hint=hint) from None
    if not model.has_peft_compatible_model():
        kinds = ", ".join(type(module).__name__ for module in model)
        raise UnusableInput(
            f"{config.model} has the modules {kinds}; expected a Transformer, the only one that takes an adapter."
        )
    return model


def model_facts(model: SentenceTransformer, name: str) -> ModelFacts:
    from collections import Counter

    dtypes: Counter[str] = Counter()
    nbytes = 0
    for parameter in model.parameters():
        dtypes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
        nbytes += parameter.numel() * parameter.element_size()
    return ModelFacts(
        name=name,
        architecture=type(model.transformers_model).__name__,
        parameters=sum(dtypes.values()),
        nbytes=nbytes,
        dtype=dtypes.most_common(1)[0][0],
    )


def add_adapter(
    model: SentenceTransformer, config: TrainingConfig, base_name: str, prompts: Mapping[str, str]
) -> AdapterFacts:
    """Put a fresh LoRA adapter into `model`; everything else in its transformer is frozen.

    The adapter's matrices are float32 even on a base of half precision, whose small updates bfloat16 would swallow.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype

    transformer = model.transformers_model
    targets = choose_targets(transformer, config.target_modules)
    settings = LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(targets.names),
        exclude_modules=list(targets.excluded) or None,
    )
    try:
        model.add_adapter(settings)
    except ValueError as error:
        raise UnusableInput(f"PEFT cannot adapt {', '.join(targets.names)}: {str(error).splitlines()[0]}") from None
    cast_adapter_dtype(transformer, "default")
    settings.base_model_name_or_path = base_name
    settings.target_modules = sorted(targets.names)  # a set by now, whose order differs from run to run
    adapted = [name for name, module in transformer.named_modules() if isinstance(module, BaseTunerLayer)]
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    beside = {name.split(".")[0] for name in trained if ".lora_" not in name}
    return AdapterFacts(
        rank=config.rank,
        alpha=config.alpha,
        target_modules=targets.names,
        excluded_modules=targets.excluded,
        modules=tuple(adapted),
        trainable=sum(parameter.numel() for parameter in trained.values()),
        also_trained=tuple(f"{index} {type(model[int(index)]).__name__}" for index in sorted(beside)),
        prompts=prompts,
    )


def prompts_for(model: SentenceTransformer, data: TrainingData) -> dict[str, str]:
    """Role → the prompt that the model will put before such a text when it is used, where it has one."""
    if data.kind == "scored pairs":
        prompt = model.prompts.get(model.default_prompt_name or "", "")
        return {"sentence1": prompt, "sentence2": prompt} if prompt else {}
    document = next((model.prompts[name] for name in ("document", "passage", "corpus") if model.prompts.get(name)), "")
    prompts = {role: document for role in data.columns if role != "anchor"} | {"anchor": model.prompts.get("query", "")}
    return {role: prompt for role, prompt in prompts.items() if prompt}
