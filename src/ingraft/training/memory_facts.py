"""What there is of memory, and what a run's model, data and loss are as `memory` estimates them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ingraft.machine import available_memory
from ingraft.training.config import TrainingConfig
from ingraft.training.losses import cached_form
from ingraft.training.memory import Device, Footprint, ModelShape, TextLengths
from ingraft.training.processes import Processes, rows_for_each
from ingraft.training.run_data import Dataset

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Of the allocators. On the CPU measured (docs/training.md): glibc's heap splinters. On a GPU assumed.
_CPU_OVERHEAD, _OVERHEAD = 2.0, 1.15
# What a cached loss embeds at a time when nobody says.
_LIBRARY_ROWS = 32
_LONGEST = 32


def this_device(processes: Processes) -> Device:
    """Where the library will train, and what is free there for one of the processes. To be asked before the load."""
    import torch
    from sentence_transformers.util import get_device_name

    name = str(get_device_name()).split(":")[0]
    if name == "cuda":
        free = torch.cuda.mem_get_info(int(os.environ.get("LOCAL_RANK", "0")))[0]
        return Device(name, _least(free, processes), torch.cuda.is_bf16_supported(), _OVERHEAD)
    if name == "cpu":
        available = available_memory()
        free_each = None if available is None else available // processes.count
        # In bfloat16 only when asked for: many processors emulate it.
        return Device(name, _least(free_each, processes), False, _CPU_OVERHEAD)
    return Device(name, None, False, _OVERHEAD)


def _least(free: int | None, processes: Processes) -> int | None:
    """The least of all processes, which have to choose alike."""
    if processes.count == 1 or free is None:
        return free
    import torch
    from accelerate import PartialState

    on_cpu = not torch.cuda.is_available()
    device = PartialState(cpu=on_cpu, **({"backend": "gloo"} if on_cpu else {})).device
    value = torch.tensor(free, dtype=torch.int64, device=device)
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MIN)
    return int(value)


def footprint(
    model: SentenceTransformer,
    datasets: Sequence[Dataset],
    prompts: Mapping[str, Mapping[str, str]],
    config: TrainingConfig,
    processes: Processes,
    device: Device,
) -> Footprint:
    """What a step of `model`, whose adapter is in it, needs."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    named = (config.loss, *(more.loss for more in config.more_data))
    return Footprint(
        weights=sum(parameter.numel() * parameter.element_size() for parameter in frozen),
        trainable=sum(parameter.numel() for parameter in trained),
        shape=model_shape(model, on_cpu=device.name == "cpu"),
        rows=rows_for_each(config.batch_size, processes),
        data=tuple(
            _lengths(model, dataset, prompts.get(dataset.name, {}), by_name=name != "auto")
            for dataset, name in zip(datasets, named, strict=True)
        ),
    )


def model_shape(model: SentenceTransformer, *, on_cpu: bool) -> ModelShape:
    """The shape of the transformer in `model` and of the adapter in that."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    transformer: Any = model.transformers_model
    config = transformer.config.get_text_config()
    hidden, heads = int(config.hidden_size), int(getattr(config, "num_attention_heads", 1))
    size = getattr(config, "head_dim", None) or hidden // heads
    names = [name.rsplit(".", 1)[-1] for name, _ in transformer.named_modules()]
    layers: list[Any] = [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
    dropouts = [module for layer in layers for module in layer.modules() if isinstance(module, nn.Dropout)]
    attention_dropout = _rate(config, "attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
    # A fused kernel keeps no scores; the one for CPUs knows no dropout.
    attention = getattr(config, "_attn_implementation", "eager")
    matrices = attention == "eager" or (on_cpu and attention == "sdpa" and attention_dropout > 0)
    mask = 1.0 if on_cpu else 0.25  # a number of float32, or a byte
    has_head = transformer.base_model is not transformer and type(model).__name__ == "SparseEncoder"
    return ModelShape(
        layers=int(getattr(config, "num_hidden_layers", 1)),
        hidden=hidden,
        inner=int(getattr(config, "intermediate_size", None) or 4 * hidden),
        heads=heads,
        attention=heads * size,
        key_values=int(getattr(config, "num_key_value_heads", None) or heads) * size,
        gated=any(name in ("gate_proj", "gate_up_proj", "Wi", "wi_0") for name in names),
        adapted=sum(int(getattr(layer, "in_features", 0) or 0) for layer in layers),
        dropout=mask if _rate(config, "hidden_dropout_prob", "resid_pdrop", "dropout") > 0 else 0.0,
        adapter_dropout=mask if any(module.p > 0 for module in dropouts) else 0.0,
        scores=(3 if attention_dropout > 0 else 2) if matrices else 0,
        outputs=int(config.vocab_size) if has_head else 0,
    )


def _rate(config: Any, *names: str) -> float:
    return next((float(rate) for name in names if isinstance(rate := getattr(config, name, None), (int, float))), 0.0)


def _lengths(model: Any, dataset: Dataset, prompts: Mapping[str, str], *, by_name: bool) -> TextLengths:
    """A loss that was asked for by name stays as it is."""
    model_type = type(model).__name__
    columns = {role: texts for role, texts in dataset.rows.columns.items() if role not in ("score", "label")}
    copies = 1
    if model_type == "CrossEncoder":
        (first, anchors), *others = columns.items()
        pairs = [" ".join(map(str, row)) for row in zip(anchors, others[0][1], strict=True)]
        columns = {first: pairs}
        # Beside its own answer each query gets some of other rows.
        if "MultipleNegatives" in dataset.loss:
            copies = 1 + int(dataset.loss_arguments.get("num_negatives", 4) or 0)
    tokens = tuple(_longest(model, texts, prompts.get(role, "")) for role, texts in columns.items())
    own = dataset.loss_arguments.get("mini_batch_size")
    if dataset.loss.startswith("Cached"):
        return TextLengths(tokens, copies, None if own else dataset.loss, int(own or _LIBRARY_ROWS))
    form = None if by_name else cached_form(dataset.loss, dataset.rows.kind, model_type)
    return TextLengths(tokens, copies, form)


def _longest(model: Any, texts: Sequence[str], prompt: str) -> int:
    """Tokens of the longest text, as far as the model reads it; of those with the most characters."""
    tokenizer = model.tokenizer
    longest = [prompt + text for text in sorted(set(texts), key=len)[-_LONGEST:]]
    limits = [getattr(model, "max_seq_length", None), getattr(tokenizer, "model_max_length", None)]
    most = min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=512)
    return min(most, max((len(ids) for ids in tokenizer(longest)["input_ids"]), default=1))
