"""Load a model directory with the Sentence Transformers class that it is for, on the CPU, as it is. Knows no peft."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch

from ingraft.adapted.quiet import quiet
from ingraft.errors import UnusableInput, first_line, one_of
from ingraft.layout import Layout

DType = Literal["float32", "float64", "stored"]


def load_model(layout: Layout, what: str, *, trust_remote_code: bool, dtype: DType) -> Any:
    """The model in `layout.root`, in eval mode; `what` is its name in messages.

    dtype  `float64` loads float32 numbers: widening them is the caller's, when nothing is put on the model any more
    Raises UnusableInput with the library's reason when it cannot be loaded.
    """
    one_of("dtype", dtype, get_args(DType))
    try:
        import sentence_transformers
    except ImportError:
        raise UnusableInput(
            f"{what} is run with sentence-transformers, which is not installed.",
            hint="Install it with: pip install 'ingraft[verify]'",
        ) from None
    name = layout.model_class or "SentenceTransformer"
    model_class = getattr(sentence_transformers, name, None)
    if model_class is None:
        raise UnusableInput(
            f"The installed sentence-transformers has no {name}.",
            hint="Update it with: pip install -U sentence-transformers",
        )
    torch.manual_seed(0)  # whatever is stored nowhere is at least the same every time
    try:
        with quiet():
            live = model_class(
                str(layout.root),
                device="cpu",
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                model_kwargs={"dtype": "auto" if dtype == "stored" else torch.float32},
            )
    except Exception as error:  # whatever a model's class raises for its files
        reason = first_line(error)
        raise UnusableInput(f"{what} cannot be loaded: {reason}") from None
    if dtype != "stored":
        live.float()
    return live.eval()


def widen(live: Any) -> None:
    """Turn a loaded model to float64 in place."""
    for module in live.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"  # the grouped kernels know no float64
    live.double()
