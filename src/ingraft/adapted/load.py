"""The unmerged model: the base with the adapter in place, through PEFT's own layers, every tensor accounted for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from ingraft.adapted.adapt import Changes, Part, adapt
from ingraft.adapted.assemble import assembled
from ingraft.adapted.keys import require_peft, split_keys
from ingraft.adapted.sentence import DType, load_model, widen
from ingraft.adapted.transformers import transformers_by_folder
from ingraft.adapter import Adapter, open_adapters
from ingraft.base_model import BaseModel, open_base, quantisation_of
from ingraft.errors import UnusableInput
from ingraft.files import human_bytes
from ingraft.machine import available_memory
from ingraft.methods.table import method_for

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

    LiveModel: TypeAlias = SentenceTransformer | CrossEncoder | SparseEncoder | MultiVectorEncoder

_RUNTIME_MEMORY = 700_000_000  # measured: an interpreter with torch, transformers, peft and sentence-transformers


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
        live: LiveModel = unadapted.model
        return live


@dataclass(frozen=True)
class Unadapted:
    """The base in the merged model's clothes; `adapt` puts the adapter on it.

    model_class  name of the Sentence Transformers class
    folders      of the adapted transformers in the merged model, as `parts`
    """

    model: Any
    model_class: str
    folders: tuple[str, ...]
    parts: tuple[Part, ...]
    trust_remote_code: bool
    dtype: DType

    def adapt(self) -> dict[str, Changes]:
        """Put the adapter on `model`. Returns what it changed, by the folder of the transformer in the merged model."""
        changes = {
            folder: adapt(part, trust_remote_code=self.trust_remote_code)
            for folder, part in zip(self.folders, self.parts, strict=True)
        }
        if self.dtype == "float64":
            widen(self.model)
        self.model.eval()
        return changes


@contextmanager
def open_unadapted(
    adapter: str | Path, base: str | Path | None, *, trust_remote_code: bool, dtype: DType
) -> Iterator[Unadapted]:
    """Load the base for `adapter`, not adapted yet, from a directory that exists as long as the context."""
    require_peft()
    adapters = open_adapters(adapter)
    for opened in adapters:
        _check_method(opened)
    bases = [open_base(opened, base) for opened in adapters]
    keys = [split_keys(opened) for opened in adapters]
    for model in bases:
        _check_base(model)
    _check_memory(bases, dtype)
    # What PEFT takes out of the base it rounds to the base's dtype; so float64 comes after the adapter is on.
    loaded: DType = "stored" if dtype == "float64" else dtype
    # Loading draws random numbers, always the same; the caller's go on as they would have.
    with torch.random.fork_rng(devices=[]), assembled(adapters, bases) as directory:
        live = load_model(
            directory.layout, f"The base model {bases[0].name}", trust_remote_code=trust_remote_code, dtype=loaded
        )
        transformers = transformers_by_folder(live, directory.layout)
        parts = tuple(
            Part(opened, model, own, transformers[folder])
            for opened, model, own, folder in zip(adapters, bases, keys, directory.folders, strict=True)
        )
        yield Unadapted(
            live,
            directory.layout.model_class or "SentenceTransformer",
            directory.folders,
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
    # The largest shard is read beside the model that it goes into.
    needed += max(shard.path.stat().st_size for base in bases for shard in base.checkpoint.shards) // 2
    needed += 0 if "sentence_transformers" in sys.modules else _RUNTIME_MEMORY
    free = available_memory()
    if free is not None and needed > free:
        raise UnusableInput(
            f"Running {bases[0].name} takes about {human_bytes(needed)} of memory, {human_bytes(free)} are free.",
            hint="Use a machine with more memory, or rely on the weight checks alone.",
        )
