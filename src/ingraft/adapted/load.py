"""The unmerged model: the base with the adapter in place, through PEFT's own layers, every adapter tensor accounted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import nn

from ingraft.adapted.assemble import Assembled, assembled
from ingraft.adapted.config import peft_config
from ingraft.adapted.coverage import check_covered, configured_modules
from ingraft.adapted.displaced import adapt_displaced
from ingraft.adapted.heads import check_heads_trained
from ingraft.adapted.inject import inject
from ingraft.adapted.keys import AdapterKeys, split_keys, unwrapped
from ingraft.adapted.names import LiveNames, live_names
from ingraft.adapted.quiet import quiet
from ingraft.adapted.tensors import read_tensors
from ingraft.adapter import Adapter, open_adapters
from ingraft.base_model import BaseModel, open_base, quantisation_of
from ingraft.errors import UnusableInput
from ingraft.files import available_memory, human_bytes
from ingraft.methods.table import method_for

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

    LiveModel: TypeAlias = SentenceTransformer | CrossEncoder | SparseEncoder | MultiVectorEncoder

DType = Literal["float32", "float64", "stored"]
_RUNTIME_MEMORY = 1_200_000_000  # measured: an interpreter with torch, transformers, peft and sentence-transformers


def load_adapted(
    adapter: str | Path,
    base: str | Path | None = None,
    *,
    trust_remote_code: bool = False,
    dtype: DType = "float32",
) -> LiveModel:
    """The unmerged model, on the CPU and in eval mode: `base` with `adapter` on it, as it was trained.

    base   default: the base that the adapter names
    dtype  of the numbers it computes with; `stored` keeps those of the base's file
    The modules around the transformer are those of the adapter's directory, where it has them, else the base's; the
    class is the one that the merged model would have. Raises UnusableInput when a tensor of the adapter does not
    arrive, or one is missing.
    """
    with open_unadapted(adapter, base, trust_remote_code=trust_remote_code, dtype=dtype) as unadapted:
        unadapted.adapt()
        return unadapted.model


@dataclass(frozen=True)
class Part:
    """One adapter, its base, and the live transformer module that it goes on."""

    adapter: Adapter
    base: BaseModel
    keys: AdapterKeys
    module: Any


@dataclass(frozen=True)
class Unadapted:
    """The base in the merged model's clothes; `adapt` puts the adapter on it.

    model_class  name of the Sentence Transformers class
    stored       the dtype that most of the base's numbers are stored in
    """

    model: Any
    model_class: str
    stored: str
    parts: tuple[Part, ...]
    trust_remote_code: bool
    dtype: DType

    def adapt(self) -> tuple[str, ...]:
        """Put the adapter on `model`. Returns adapted things that belong to a head which the model does not have."""
        absent: list[str] = []
        for part in self.parts:
            absent += _adapt(part, self.trust_remote_code)
        _set_dtype(self.model, self.dtype)
        self.model.eval()
        return tuple(absent)


@contextmanager
def open_unadapted(
    adapter: str | Path, base: str | Path | None, *, trust_remote_code: bool, dtype: DType
) -> Iterator[Unadapted]:
    """Load the base for `adapter`, not adapted yet, from a directory that exists as long as the context."""
    adapters = open_adapters(adapter)
    for opened in adapters:
        _check_method(opened)
    bases = [open_base(opened, base) for opened in adapters]
    keys = [split_keys(opened) for opened in adapters]
    for model in bases:
        _check_base(model)
    _check_memory(bases, dtype)
    with assembled(adapters, bases) as directory:
        live = _load(directory, bases[0], trust_remote_code, dtype)
        transformers = _transformers(live, directory)
        parts = tuple(
            Part(opened, model, own, transformers[folder])
            for opened, model, own, folder in zip(adapters, bases, keys, directory.folders, strict=True)
        )
        yield Unadapted(
            live,
            directory.layout.model_class or "SentenceTransformer",
            bases[0].checkpoint.dtype,
            parts,
            trust_remote_code,
            dtype,
        )


def _check_method(adapter: Adapter) -> None:
    method = method_for(adapter.config.raw)
    if method.route == "refused":
        raise UnusableInput(f"{adapter.name}: {method.name} cannot be merged: {method.reason}")


def _check_base(base: BaseModel) -> None:
    packed = quantisation_of(base)
    if packed:
        raise UnusableInput(
            f"The base model {base.name} is quantised with {packed}.",
            hint="Pass the model in its original precision with --base.",
        )


def _check_memory(bases: list[BaseModel], dtype: DType) -> None:
    size = {"float32": 4, "float64": 8}.get(dtype)
    needed = sum(base.checkpoint.elements * size if size else base.checkpoint.nbytes for base in bases)
    free = available_memory()
    # The largest shard is read beside the model that it goes into.
    needed += max(shard.path.stat().st_size for base in bases for shard in base.checkpoint.shards) // 2
    if free is not None and needed + _RUNTIME_MEMORY > free:
        raise UnusableInput(
            f"Running {bases[0].name} takes about {human_bytes(needed + _RUNTIME_MEMORY)} of memory, "
            f"{human_bytes(free)} are free.",
            hint="Use a machine with more memory, or rely on the weight checks alone.",
        )


def _load(directory: Assembled, base: BaseModel, trust_remote_code: bool, dtype: DType) -> Any:
    try:
        import sentence_transformers
    except ImportError:
        raise UnusableInput(
            "Running the unmerged model needs sentence-transformers and peft.",
            hint="Install them with: pip install 'ingraft[verify]'",
        ) from None
    model_class = getattr(sentence_transformers, directory.layout.model_class or "SentenceTransformer", None)
    if model_class is None:
        raise UnusableInput(
            f"The installed sentence-transformers has no {directory.layout.model_class}.",
            hint="Update it with: pip install -U sentence-transformers",
        )
    torch.manual_seed(0)  # whatever is stored nowhere is at least the same every time
    wanted = "auto" if dtype == "stored" else torch.float32
    try:
        with quiet():
            live = model_class(
                str(directory.layout.root),
                device="cpu",
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                model_kwargs={"dtype": wanted},
            )
    except Exception as error:  # whatever a model's class raises for its files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnusableInput(f"The base model {base.name} cannot be loaded: {reason}") from None
    if dtype != "stored":
        live.float()
    return live.eval()


def _set_dtype(live: nn.Module, dtype: DType) -> None:
    if dtype != "float64":
        return
    for module in live.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"  # the grouped kernels know no float64
    live.double()


def _transformers(live: Any, directory: Assembled) -> dict[str, Any]:
    """The modules that hold a transformer, by their folders."""
    found = [module for module in live.modules() if hasattr(type(module), "auto_model") and hasattr(module, "model")]
    folders = directory.layout.transformers
    if len(found) != len(folders):
        raise UnusableInput(
            f"The model has {len(found)} transformers where its directory has {len(folders)}: "
            "a module with code of its own is not supported here."
        )
    return dict(zip(folders, found, strict=True))


def _adapt(part: Part, trust_remote_code: bool) -> tuple[str, ...]:
    """Put one adapter on its transformer."""
    adapter, keys, model = part.adapter, part.keys, part.module.model
    names = live_names(adapter, keys, part.base, model, trust_remote_code=trust_remote_code)
    _resize(adapter, keys, names, model)
    check_heads_trained(model, part.base, names.saved.values(), trust_remote_code=trust_remote_code)
    if names.displaced:
        adapt_displaced(adapter, keys, part.base, model, names.displaced)
    tuned = {module: names.modules[unwrapped(module)] for module in keys.tuned if unwrapped(module) in names.modules}
    check_covered(adapter, tuned, model)
    if keys.shared and not keys.tuned:
        tuned = configured_modules(adapter, model)
    tokens = {module: names.modules[module] for module in keys.tokens if module in names.modules}
    parameters = _target_parameters(adapter, tuned, model)
    owners = {parameter.rpartition(".")[0] for parameter in parameters}
    whole = _whole_modules(adapter, keys, names)
    config = peft_config(
        adapter,
        {module: live for module, live in tuned.items() if live not in owners},
        parameters=parameters,
        modules_to_save=whole,
        tokens=tokens,
    )
    state = _state(keys, names)
    _check_all_used(adapter, keys, names, state)
    if state:
        inject(model, config, read_tensors(adapter, state), who=adapter.name)
    _keep_tied_biases(model)
    return names.absent


def _resize(adapter: Adapter, keys: AdapterKeys, names: LiveNames, model: Any) -> None:
    """Give the model as many embeddings as the adapter brings, where the vocabulary was resized for training."""
    embeddings = model.get_input_embeddings()
    own = next((name for name, module in model.named_modules() if module is embeddings), None)
    for name, live in names.saved.items():
        rows = adapter.tensors[keys.saved[name].key].shape[0]
        if live == f"{own}.weight" and rows != embeddings.weight.shape[0]:
            with quiet():
                model.resize_token_embeddings(rows, mean_resizing=False)
            return


def _target_parameters(adapter: Adapter, tuned: Mapping[str, str], model: Any) -> list[str]:
    """The live model's parameters that are adapted by themselves, as `target_parameters` names them."""
    wanted = adapter.config.raw.get("target_parameters") or []
    found = []
    for module, live in tuned.items():
        plain = unwrapped(module)
        for parameter, _ in model.get_submodule(live).named_parameters(recurse=False):
            name = f"{plain}.{parameter}"
            if any(name == key or name.endswith(f".{key}") for key in wanted):
                found.append(f"{live}.{parameter}")
    return sorted(set(found))


def _whole_modules(adapter: Adapter, keys: AdapterKeys, names: LiveNames) -> list[str]:
    """The live model's modules that PEFT has to copy because the adapter holds them whole (modules_to_save)."""
    found = []
    for parameter, live in names.saved.items():
        if keys.saved[parameter].wrapped:
            continue
        module, live_module = parameter.split("."), live.split(".")
        for entry in adapter.config.modules_to_save:
            at = _position(module, entry.split("."))
            if at is not None:
                below = len(module) - at
                found.append(".".join(live_module[: len(live_module) - below]))
                break
    return sorted(set(found))


def _position(parts: list[str], entry: list[str]) -> int | None:
    """Where `entry` ends in `parts`."""
    for start in range(len(parts) - len(entry)):
        if parts[start : start + len(entry)] == entry:
            return start + len(entry)
    return None


def _state(keys: AdapterKeys, names: LiveNames) -> dict[str, str]:
    """Name that PEFT expects → key in the file, for all that goes into the live model through PEFT."""
    state: dict[str, str] = {}
    if not keys.tuned or any(unwrapped(module) in names.modules for module in keys.tuned):
        state |= {f"base_model.{name}": key for name, key in keys.shared.items()}
    for owners in (keys.tuned, keys.tokens):
        for module, tensors in owners.items():
            plain = unwrapped(module)
            if plain in names.modules:
                live = names.modules[plain] + module[len(plain) :]
                state |= {f"base_model.model.{live}.{tail}": key for tail, key in tensors.items()}
    adapted = {names.modules[unwrapped(module)] for module in keys.tuned if unwrapped(module) in names.modules}
    for parameter, live in names.saved.items():
        module, _, last = live.rpartition(".")
        inner = f"{module}.base_layer.{last}" if module in adapted else live
        state[f"base_model.model.{inner}"] = keys.saved[parameter].key
    return state


def _check_all_used(adapter: Adapter, keys: AdapterKeys, names: LiveNames, state: Mapping[str, str]) -> None:
    """Total accounting: every key of the file goes in by PEFT, by way of a displaced module, or is a head's."""
    elsewhere = {*names.displaced, *names.absent}
    used = set(state.values())
    for owners in (keys.tuned, keys.tokens):
        used |= {
            key for module, tensors in owners.items() if unwrapped(module) in elsewhere for key in tensors.values()
        }
    used |= {saved.key for parameter, saved in keys.saved.items() if parameter in elsewhere}
    used |= set(keys.shared.values()) if names.displaced else set()
    unused = sorted(set(adapter.tensors) - used)
    if unused:
        raise UnusableInput(
            f"{len(unused)} of {len(adapter.tensors)} adapter tensors have no use, such as {unused[0]}."
        )


def _keep_tied_biases(model: nn.Module) -> None:
    """PEFT's retrained tokens on a tied output layer leave out that layer's bias, which the trained model has."""
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

    for module in model.modules():
        if isinstance(module, TrainableTokensLayer) and isinstance(module.base_layer, nn.Linear):
            bias = module.base_layer.bias
            if bias is not None:
                module.register_forward_hook(lambda layer, inputs, output: output + layer.base_layer.bias)


