"""Small real models and adapters: transformers' own classes, PEFT's own files, no weight where it began.

Everything is made once per process and read-only from then on: a test that spoils something works on a copy.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.handmade import write_shards

torch.set_num_threads(1)

HIDDEN, HEADS, INNER, LAYERS = 64, 4, 128, 2
_TEXT = """
the of in to and with search query text model word fever cough pain chest acute chronic type two without left right hand
foot fracture open closed diabetes blood pressure high low heart kidney failure
"""
TEXTS = [
    "fever and cough",
    "chronic kidney failure without pain",
    "open fracture of the left hand",
    "high blood pressure",
]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = 128

_DECODER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The linear layers of each architecture, as adapters name them.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "bert": ("query", "key", "value", "dense"),
    "mpnet": ("q", "k", "v", "o", "dense"),
    "xlm-roberta": ("query", "key", "value", "dense"),
    "modernbert": ("Wqkv", "Wo", "Wi"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "mistral": _DECODER,
}
ARCHITECTURES = tuple(TARGETS)

_root = Path(tempfile.mkdtemp(prefix="ingraft-tests-models-"))
atexit.register(shutil.rmtree, _root, ignore_errors=True)


def new_folder(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_root))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """peft warns about much that is meant here: biases, patterns that fit nothing, a base in a folder of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Bases


def config_of(architecture: str, **changes: Any) -> Any:
    import transformers

    encoder = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": 66,
        "pad_token_id": 0,
    }
    decoder = {**encoder, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 64}
    gpt2 = {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": INNER}
    modern = {**encoder, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    name, arguments = {
        "bert": ("BertConfig", encoder),
        "mpnet": ("MPNetConfig", encoder),
        "xlm-roberta": ("XLMRobertaConfig", encoder),
        "modernbert": ("ModernBertConfig", modern),
        "gpt2": ("GPT2Config", {**gpt2, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}),
        "qwen2": ("Qwen2Config", decoder),
        "qwen3": ("Qwen3Config", {**decoder, "head_dim": 16}),
        "mistral": ("MistralConfig", {**decoder, "head_dim": 16}),
    }[architecture]
    return getattr(transformers, name)(**{**arguments, **changes})


def fill_weights(model: nn.Module, seed: int = 0) -> None:
    """Matrices with standard deviation 1/√fan_in, norms near one, biases near zero: as far from a fresh model as a
    trained one is, so that signals pass through all layers."""
    from transformers.pytorch_utils import Conv1D

    generator = torch.Generator().manual_seed(seed)
    transposed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    embeddings = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name in embeddings:
                parameter.copy_(noise / 2)
            elif parameter.ndim > 1:
                parameter.copy_(noise / parameter.shape[0 if name in transposed else 1] ** 0.5)
            else:
                parameter.copy_(noise / 10 + (1 if "norm" in name.lower() or "ln_" in name else 0))


@functools.cache
def tokenizer() -> Any:
    """Words of a small vocabulary, with special tokens at both ends."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = [*SPECIAL, *_TEXT.split()]
    names += [f"[unused{n}]" for n in range(VOCABULARY - len(names))]
    words = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=60,
    )


@functools.cache
def plain_base(architecture: str, dtype: str = "float32", shards: int = 1, head: str = "") -> Path:
    """A transformers directory. `head`: the auto class that the model is saved with, such as AutoModelForMaskedLM."""
    import transformers

    folder = new_folder(f"{architecture}-plain")
    model = getattr(transformers, head or "AutoModel").from_config(config_of(architecture))
    fill_weights(model)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if shards > 1:
        split_weights(folder, shards)
    return folder


@functools.cache
def sentence_base(architecture: str, dtype: str = "float32", shards: int = 1, dense: bool = False) -> Path:
    """A Sentence Transformers directory: transformer, mean pooling, Dense if asked for, Normalize; with prompts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    modules: list[nn.Module] = [Transformer(str(plain_base(architecture, dtype))), Pooling(HIDDEN, "mean")]
    if dense:
        modules.append(new_dense(seed=3))
    model = SentenceTransformer(
        modules=[*modules, Normalize()], prompts={"query": "search query ", "document": ""}, device="cpu"
    )
    folder = new_folder(f"{architecture}-sentence")
    model.save_pretrained(str(folder))
    if shards > 1:
        split_weights(folder, shards)
    return folder


def new_dense(seed: int) -> Any:
    from sentence_transformers.base.modules import Dense

    generator = torch.Generator().manual_seed(seed)
    return Dense(
        HIDDEN,
        16,
        init_weight=torch.randn(16, HIDDEN, generator=generator) / HIDDEN**0.5,
        init_bias=torch.randn(16, generator=generator) / 10,
    )


def split_weights(folder: Path, shards: int) -> None:
    write_shards(folder, load_file(folder / "model.safetensors"), shards)
    (folder / "model.safetensors").unlink()


def moved_into_module_folder(model: Path, name: str = "0_Transformer") -> Path:
    """A copy in the older layout, which keeps the transformer in a folder of its own."""
    folder = new_folder("moved")
    shutil.copytree(model, folder, dirs_exist_ok=True)
    modules = json.loads((folder / "modules.json").read_text())
    kept = {"modules.json", "config_sentence_transformers.json", "README.md", name}
    kept |= {module["path"] for module in modules}
    (folder / name).mkdir()
    for path in list(folder.iterdir()):
        if path.name not in kept:
            path.rename(folder / name / path.name)
    modules[0]["path"] = name
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


# Adapters


def lora_config(architecture: str, **changes: Any) -> Any:
    from peft import LoraConfig

    settings: dict[str, Any] = {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": list(TARGETS[architecture]),
        "fan_in_fan_out": architecture == "gpt2",
        "task_type": "FEATURE_EXTRACTION",
    }
    return LoraConfig(**{**settings, **changes})


def train_a_little(model: nn.Module, seed: int = 1) -> None:
    """Move every trainable parameter, as training would: none is zero, none is where it began."""
    generator = torch.Generator().manual_seed(seed)
    moved = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if "lora_A" in name or "lora_embedding_A" in name:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            elif ("lora_B" in name or "lora_embedding_B" in name) and parameter.ndim > 1:
                parameter.copy_(noise / (12 * parameter.shape[-1] ** 0.5))
            else:
                parameter.add_(noise.to(parameter.dtype) / 10)
            moved += 1
    assert moved


@quiet()
def plain_adapter(base: Path, config: Any, *, name: str = "default", head: str = "", seed: int = 1) -> Path:
    """What PEFT's save_pretrained writes for a transformers model (with an adapter name: in a folder of that name)."""
    import transformers
    from peft import get_peft_model

    model = getattr(transformers, head or "AutoModel").from_pretrained(base)
    adapted = get_peft_model(model, config, adapter_name=name)
    train_a_little(adapted, seed)
    folder = new_folder("adapter-plain")
    adapted.save_pretrained(folder)
    return folder


@quiet()
def sentence_adapter(base: Path, config: Any, *, seed: int = 1, train_dense: bool = False) -> Path:
    """What Sentence Transformers' save_pretrained writes for a model with an adapter."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(base), device="cpu")
    model.add_adapter(config)
    train_a_little(model[0], seed)
    if train_dense:
        model[2].load_state_dict(new_dense(seed=99).state_dict())
    folder = new_folder("adapter-sentence")
    model.save_pretrained(str(folder))
    return folder


def trainer_checkpoint(adapter: Path) -> Path:
    """A copy of an adapter with what a Trainer's checkpoint has besides, in `run/checkpoint-7`."""
    folder = new_folder("run") / "checkpoint-7"
    shutil.copytree(adapter, folder)
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt")
    torch.save({"last_epoch": 1}, folder / "scheduler.pt")
    torch.save({"python": 1}, folder / "rng_state.pth")
    torch.save({"learning_rate": 1e-3}, folder / "training_args.bin")
    (folder / "trainer_state.json").write_text('{"global_step": 7}')
    return folder


def copy_of(model: Path) -> Path:
    """A copy that a test may spoil."""
    folder = new_folder("copy")
    shutil.copytree(model, folder, dirs_exist_ok=True)
    return folder


# Truth


@dataclass(frozen=True)
class Adapted:
    """base + adapter as PEFT loads it: each parameter in float64, W + s·B·A where there is a delta."""

    parameters: Mapping[str, Tensor]
    changed: frozenset[str]


@quiet()
def exact_parameters(base: Path, adapter: Path, *, head: str = "") -> Adapted:
    """The adapted model's parameters by name, computed in float64 from what PEFT holds in memory, without its merge."""
    import transformers
    from peft import PeftModel

    model = getattr(transformers, head or "AutoModel").from_pretrained(base)
    adapted = PeftModel.from_pretrained(model, adapter).double().get_base_model()
    parameters = dict(_plain_parameters(adapted))
    for name, layer in adapted.named_modules():
        for part, delta in _deltas(layer):
            parameters[f"{name}.{part}"] = parameters[f"{name}.{part}"] + delta
    before = getattr(transformers, head or "AutoModel").from_pretrained(base).double().state_dict()
    changed = {name for name, value in parameters.items() if name not in before or not value.equal(before[name])}
    return Adapted({name: value.detach() for name, value in parameters.items()}, frozenset(changed))


def _deltas(layer: Any) -> Iterator[tuple[str, Tensor]]:
    from transformers.pytorch_utils import Conv1D

    if not hasattr(layer, "base_layer") or not hasattr(layer, "scaling"):
        return
    for name in layer.lora_A:
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        delta = layer.scaling[name] * (b @ a)
        yield "weight", delta.T if isinstance(layer.base_layer, Conv1D) else delta
        if layer.lora_B[name].bias is not None:
            yield "bias", layer.scaling[name] * layer.lora_B[name].bias
    for name in layer.lora_embedding_A:
        yield "weight", layer.scaling[name] * (layer.lora_embedding_B[name] @ layer.lora_embedding_A[name]).T


def _plain_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, value in model.state_dict().items():
        if ".lora_" not in name and ".original_module." not in name:
            yield name.replace(".base_layer.", ".").replace(".modules_to_save.default.", "."), value


@quiet()
def embed_adapted(base: Path, adapter: Path, texts: list[str] = TEXTS, prompt: str | None = None) -> Tensor:
    """Embeddings of base + adapter run unmerged: the Sentence Transformers base with PEFT's model in its place."""
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(base), device="cpu")
    model[0].model = PeftModel.from_pretrained(model[0].model, str(adapter)).eval()
    found: Tensor = model.encode(texts, prompt_name=prompt, convert_to_tensor=True)
    return found.float()


# Comparing numbers


def ulps(found: Tensor, exact: Tensor) -> Tensor:
    """|found − exact| in units in the last place of the float32 nearest to `exact`."""
    near = exact.to(torch.float32).abs()
    unit = torch.nextafter(near, torch.full_like(near, torch.inf)).double() - near.double()
    return (found.double() - exact).abs() / unit


def is_nearest(found: Tensor, exact: Tensor) -> Tensor:
    """Is a half-precision number the one that lies nearest to the exact value? Looks at both neighbours."""
    bits = found.view(torch.int16)
    error = (found.double() - exact).abs()
    above = (bits + 1).view(found.dtype).double()
    below = (bits - 1).view(found.dtype).double()
    return (error <= (above - exact).abs()) & (error <= (below - exact).abs())
