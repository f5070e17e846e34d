"""A base that is loaded in four bits (QLoRA): checked before it loads, prepared after, and said in the adapter's card.

bitsandbytes packs the linear layers, its own kernels unpack them where they compute. The adapter is trained in float32
beside them. Its directory names the base in full precision, whose files are not touched.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingraft.base_precision.arithmetic import quiet_bitsandbytes
from ingraft.base_precision.layers import BLOCKSIZE
from ingraft.base_precision.settings import CARD_LINE
from ingraft.errors import UnusableInput
from ingraft.files import read_json_object
from ingraft.layout import read_layout
from ingraft.training.config import TrainingConfig
from ingraft.training.facts import Quantised
from ingraft.training.methods import TrainedMethod
from ingraft.training.processes import Processes

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# What else LoRA can begin with takes something of the base's weights, or of what it does to data.
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal")


def check_quantisation(
    config: TrainingConfig, method: TrainedMethod, root: Path, model_type: str, processes: Processes
) -> None:
    """UnusableInput where `config.quantize` cannot be had: said before the base is loaded."""
    if config.quantize == "none":
        return
    asked = f"--quantize {config.quantize}"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UnusableInput(
            f"{asked} packs the base with bitsandbytes, which is not installed.",
            hint="Install it with: pip install 'ingraft[train,quantized]'",
        )
    if not _has_kernels():
        raise UnusableInput(
            f"{asked} needs a GPU or a processor that bitsandbytes has kernels for, and here is neither.",
            hint="Train without it: --quantize none",
        )
    if model_type != "SentenceTransformer":
        raise UnusableInput(f"{asked} is for a SentenceTransformer; this is a {model_type}.")
    if processes.count > 1:
        raise UnusableInput(f"{asked} trains in one process; there are {processes.count}.")
    start = method.arguments.get("init_lora_weights", True)
    if not method.is_lora or start not in _PLAIN_STARTS:
        what = f"LoRA that begins with {start}" if method.is_lora else method.row.name
        raise UnusableInput(
            f"{asked} goes with plain LoRA; {what} needs the base's own weights.",
            hint="Take --method lora, rslora or dora.",
        )
    if config.modules_to_save:
        raise UnusableInput(f"{asked} packs the modules that --modules-to-save would train whole; leave one of them.")
    settings = read_json_object(read_layout(root).transformer_folder / "config.json")
    if settings.get("quantization_config") is not None:
        raise UnusableInput(
            f"{config.model} is stored quantised already, with {_method_of(settings)}.",
            hint="Name the base in its original precision with --model.",
        )


def _method_of(settings: dict[str, Any]) -> str:
    found = settings["quantization_config"]
    return str(found.get("quant_method", "its own settings")) if isinstance(found, dict) else "its own settings"


def _has_kernels() -> bool:
    """A GPU, or the native library of bitsandbytes, whose kernels for processors are in it."""
    import torch

    if torch.cuda.is_available():
        return True
    quiet_bitsandbytes()
    library: Any = importlib.import_module("bitsandbytes.cextension")
    return not isinstance(library.lib, library.ErrorHandlerMockBNBNativeLibrary)


def loading_arguments(config: TrainingConfig) -> dict[str, Any]:
    """Further arguments for the base's transformer; empty where it is not quantised."""
    if config.quantize == "none":
        return {}
    import torch
    import transformers

    build: Any = transformers.BitsAndBytesConfig
    on_gpu = torch.cuda.is_available()
    compute = torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported() else torch.float32
    # Placed by the loader: what is packed is not to be moved any more.
    return {
        "device_map": {"": torch.cuda.current_device() if on_gpu else "cpu"},
        "quantization_config": build(
            load_in_4bit=True,
            bnb_4bit_quant_type=config.quantize,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        ),
    }


def prepare_quantised(model: SentenceTransformer, config: TrainingConfig) -> Quantised | None:
    """Make a base that was loaded packed ready for an adapter; None for one that was not."""
    if config.quantize == "none":
        return None
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers.utils.quantization_config import QuantizationMethod

    layer_type = importlib.import_module("bitsandbytes.nn").Linear4bit
    transformer: Any = model.transformers_model
    layers = {name: module for name, module in transformer.named_modules() if isinstance(module, layer_type)}
    if not layers:
        raise UnusableInput(f"--quantize {config.quantize}: {config.model} has no layer that bitsandbytes packs.")
    for name, layer in layers.items():
        if layer.weight.device.type != "cpu":
            continue
        # bitsandbytes 0.50 on a CPU takes other rows' scales where a row is no whole number of blocks.
        if layer.in_features % BLOCKSIZE:
            raise UnusableInput(
                f"--quantize {config.quantize} on a CPU: {name} of {config.model} has {layer.in_features} inputs; "
                f"expected a multiple of {BLOCKSIZE}, the numbers that share a scale.",
                hint="Train on a GPU, or without it: --quantize none",
            )
        # To evaluate, it would pack the weights anew, for a kernel that rounds to bfloat16, wants 32 rows at a time and
        # passes no gradient on when the training goes on.
        layer.support_avx512bf16_for_cpu = False
    # The trainer turns checkpointing on where it is wanted.
    prepare: Any = prepare_model_for_kbit_training
    prepare(transformer, use_gradient_checkpointing=False)
    model.quantization_method = QuantizationMethod.BITS_AND_BYTES  # type: ignore[assignment,unused-ignore] # or the trainer moves it
    compute = str(next(iter(layers.values())).compute_dtype or torch.float32).removeprefix("torch.")
    return Quantised(config.quantize, len(layers), compute, config.base_precision)


def elements(parameter: Any) -> int:
    """Numbers in a parameter; two of a packed one share a byte."""
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel()) if state is None else math.prod(state.shape)


def say_in_card(model: SentenceTransformer, folder: Path) -> None:
    """Add to the adapter's card what it was trained over, as PEFT says it, so that a merge can tell.

    (In adapter_config.json, which has no field for it, PEFT would warn of it at each load.)
    """
    transformer: Any = model.transformers_model
    settings = transformer.config.quantization_config.to_dict()
    lines = [
        f"- {name}: {getattr(value, 'value', value)}"
        for name, value in settings.items()
        if re.match(r"(load_in|bnb_4bit|quant_m)", name)
    ]
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    section = "\n".join(["## Training over a quantised base", "", CARD_LINE, *lines])
    card.write_text(f"{text.rstrip()}\n\n{section}\n", encoding="utf-8")
