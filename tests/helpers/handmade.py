"""A small BERT checkpoint and adapters for it, written tensor by tensor: quick, and easy to spoil in one place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.files import write_json

HIDDEN, INNER, LAYERS, VOCABULARY = 16, 32, 2, 40
QUERY = "encoder.layer.0.attention.self.query"
VALUE = "encoder.layer.0.attention.self.value"

BERT_CONFIG: Mapping[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}


def bert_shapes(layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    """Names and shapes of BertModel."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN),
        "embeddings.position_embeddings.weight": (32, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        **_norm("embeddings.LayerNorm"),
    }
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _linear(f"{at}.attention.{name}", HIDDEN, HIDDEN)
        shapes |= _norm(f"{at}.attention.output.LayerNorm")
        shapes |= _linear(f"{at}.intermediate.dense", INNER, HIDDEN)
        shapes |= _linear(f"{at}.output.dense", HIDDEN, INNER)
        shapes |= _norm(f"{at}.output.LayerNorm")
    return {**shapes, **_linear("pooler.dense", HIDDEN, HIDDEN)}


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def random_tensors(
    shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: (torch.randn(shape, generator=generator) / 4).to(dtype) for name, shape in shapes.items()}


def write_base(
    folder: Path,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    config: Mapping[str, Any] | None = None,
    sentence_transformers: bool = False,
) -> Path:
    """A BERT checkpoint in `folder`; with `shards` > 1 under an index."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(tensors or random_tensors(bert_shapes(), dtype=dtype))
    write_json(folder / "config.json", {**BERT_CONFIG, **(config or {})})
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        write_shards(folder, tensors, shards)
    if sentence_transformers:
        write_modules(folder)
    return folder


def write_shards(folder: Path, tensors: Mapping[str, Tensor], shards: int) -> None:
    names = sorted(tensors)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def write_modules(folder: Path, *, transformer: str = "", dense: bool = False) -> None:
    """modules.json with a transformer, pooling and, if asked for, a Dense module."""
    modules = [("Transformer", transformer), ("Pooling", "1_Pooling")] + ([("Dense", "2_Dense")] if dense else [])
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(modules)
        ],
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
    )
    write_json(folder / transformer / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {"query": "query: "}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    if dense:
        write_json(
            folder / "2_Dense" / "config.json",
            {"in_features": HIDDEN, "out_features": 4, "bias": True, "activation_function": "torch.nn.Tanh"},
        )
        save_file(random_tensors(_linear("linear", 4, HIDDEN), seed=7), folder / "2_Dense" / "model.safetensors")


def lora_tensors(
    modules: Sequence[str], shapes: Mapping[str, tuple[int, ...]], *, rank: int = 4, seed: int = 1, size: float = 0.3
) -> dict[str, Tensor]:
    """Keys as PEFT writes them; no element is zero."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in modules:
        rows, columns = shapes[f"{module}.weight"]
        key = f"base_model.model.{module}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) * size
        tensors[f"{key}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * size
    return tensors


def attention_modules(layers: int = LAYERS) -> list[str]:
    return [f"encoder.layer.{n}.attention.self.{name}" for n in range(layers) for name in ("query", "value")]


def write_adapter(
    folder: Path,
    base: Path | str | None,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    rank: int = 4,
    alpha: float = 8,
    **config: Any,
) -> Path:
    """A LoRA adapter on query and value of every layer, unless `tensors` say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "base_model_name_or_path": str(base) if base is not None else None,
            "task_type": "FEATURE_EXTRACTION",
            "r": rank,
            "lora_alpha": alpha,
            "target_modules": ["query", "value"],
            "bias": "none",
            "inference_mode": True,
            **config,
        },
    )
    if tensors is None:
        tensors = lora_tensors(attention_modules(), bert_shapes(), rank=rank)
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def change_tensors(path: Path, changes: Mapping[str, Tensor | None]) -> None:
    """Replace, add or (None) remove tensors of a safetensors file."""
    tensors = load_file(path)
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, path, metadata={"format": "pt"})


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
