"""The unmerged model: the base with the adapter in place, through PEFT's own layers, every tensor accounted for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import nn

from ingraft.adapted.adapt import Part, adapt
from ingraft.adapted.assemble import Assembled, assembled
from ingraft.adapted.keys import split_keys
from ingraft.adapted.quiet import quiet
from ingraft.adapted.transformers import transformers_by_folder
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
        live: LiveModel = unadapted.model
        return live


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
            absent += adapt(part, trust_remote_code=self.trust_remote_code)
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
        transformers = transformers_by_folder(live, directory.layout)
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
        config: Any = getattr(module, "config", None)
        if hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"  # the grouped kernels know no float64
    live.double()
