"""Small models of many architectures, as transformers and Sentence Transformers save them; made once."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.handmade import write_shards
from helpers.models import fill_weights, new_folder, quiet, tokenizer

HIDDEN, HEADS, INNER, VOCABULARY = 32, 4, 64, 128

Dtype = Literal["float32", "bfloat16", "float16"]
# plain: a transformers directory; dense, sentence: Sentence Transformers ones; shards: three files and an index;
# pickled, pickled shards: pytorch_model.bin; folder: the transformer in a folder of its own.
Layout = Literal["plain", "shards", "pickled", "pickled shards", "sentence", "dense", "folder"]


@dataclass(frozen=True)
class Architecture:
    """How to build one architecture, and what adapters call its layers.

    linear       names of linear layers (or Conv1D), for target_modules
    feedforward  those of them that widen or narrow
    square       some whose weight is [HIDDEN, HIDDEN]
    auto         the auto class that loads it; `sentence` the Sentence Transformers class
    """

    config: str
    options: Mapping[str, Any]
    linear: tuple[str, ...]
    feedforward: tuple[str, ...]
    square: tuple[str, ...]
    norms: tuple[str, ...] = ("LayerNorm",)
    embedding: str = "word_embeddings"
    convolutions: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    auto: str = "AutoModel"
    sentence: str = "SentenceTransformer"
    changes: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Any:
        config = getattr(transformers, self.config)(**{**self.options, **self.changes})
        model = getattr(transformers, self.auto).from_config(config)
        fill_weights(model)
        return model.eval()

    @property
    def pixels(self) -> bool:
        return self.config == "ViTConfig"


_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
}
_NAMED = {"bos_token_id": 2, "eos_token_id": 3}
_MODERN = {**_ENCODER, **_NAMED, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 8}
_DECODER = {**_ENCODER, **_NAMED, "num_key_value_heads": 2}
_EXPERTS = {**_DECODER, "num_experts_per_tok": 2, "intermediate_size": 16, "head_dim": 8}
_DISTIL = {"vocab_size": VOCABULARY, "dim": HIDDEN, "n_layers": 2, "n_heads": HEADS, "hidden_dim": INNER}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": 2, "n_head": HEADS, "n_inner": INNER, "n_positions": 64}
_T5 = {"vocab_size": VOCABULARY, "d_model": HIDDEN, "d_kv": 8, "d_ff": INNER, "num_layers": 2, "num_heads": HEADS}
_VIT = {
    key: value for key, value in _ENCODER.items() if "position" not in key and "_id" not in key and "vocab" not in key
}
_SQUEEZE = {f"{name}_groups": 1 for name in ("q", "k", "v", "post_attention", "intermediate", "output")}
_SQUEEZE |= {"embedding_size": HIDDEN}

_BERT_LINEAR = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
_BERT = (_BERT_LINEAR, ("intermediate.dense", "output.dense"), ("query", "value"))
_LLAMA_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LLAMA_NORMS = ("input_layernorm", "post_attention_layernorm")
_LLAMA = (_LLAMA_LINEAR, ("up_proj", "down_proj"), ("q_proj", "o_proj"), (*_LLAMA_NORMS, "norm"), "embed_tokens")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MOE = (_ATTENTION, (), ("q_proj", "o_proj"), (*_LLAMA_NORMS, "norm"), "embed_tokens")

ARCHITECTURES: Mapping[str, Architecture] = {
    "bert": Architecture("BertConfig", _ENCODER, *_BERT),
    "bert-wide": Architecture(
        "BertConfig", {**_ENCODER, "hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 1}, *_BERT
    ),
    "xlm-roberta": Architecture("XLMRobertaConfig", {**_ENCODER, **_NAMED}, *_BERT),
    "mpnet": Architecture(
        "MPNetConfig",
        {**_ENCODER, **_NAMED},
        ("attn.q", "attn.k", "attn.v", "attn.o", "intermediate.dense", "output.dense"),
        ("intermediate.dense", "output.dense"),
        ("attn.q", "attn.v"),
    ),
    "distilbert": Architecture(
        "DistilBertConfig",
        {**_DISTIL, "max_position_embeddings": 66, "pad_token_id": 0},
        ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
        ("lin1", "lin2"),
        ("q_lin", "v_lin"),
        ("sa_layer_norm", "output_layer_norm"),
    ),
    "modernbert": Architecture(
        "ModernBertConfig",
        _MODERN,
        ("Wqkv", "Wi", "Wo"),
        ("Wi", "mlp.Wo"),
        ("attn.Wo",),
        ("mlp_norm", "final_norm"),
        "tok_embeddings",
    ),
    # stored as Wqkv or qkv_proj and split when loaded
    "nomic-bert": Architecture(
        "NomicBertConfig",
        {**_ENCODER, "head_dim": 8},
        _LLAMA_LINEAR,
        ("up_proj", "down_proj"),
        ("q_proj", "o_proj"),
        ("post_attention_layernorm",),
    ),
    "gte": Architecture(
        "GteConfig",
        {**_ENCODER, "head_dim": 8},
        (*_ATTENTION, "up_proj", "down_proj"),
        ("up_proj", "down_proj"),
        ("q_proj", "o_proj"),
        ("post_attention_layernorm",),
    ),
    # one layer that runs twice
    "albert": Architecture(
        "AlbertConfig",
        {**_ENCODER, "embedding_size": 16},
        ("query", "key", "value", "attention.dense", "ffn", "ffn_output"),
        ("ffn", "ffn_output"),
        ("query", "value"),
        ("full_layer_layer_norm",),
    ),
    # `shared` and `encoder.embed_tokens` are one
    "t5": Architecture(
        "T5Config",
        {**_T5, "pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0},
        ("q", "k", "v", "o", "wi", "wo"),
        ("wi", "wo"),
        ("q", "v"),
        ("layer_norm",),
        "embed_tokens",
        auto="AutoModelForTextEncoding",
    ),
    "squeezebert": Architecture(
        "SqueezeBertConfig",
        {**_ENCODER, **_SQUEEZE},
        (),
        (),
        (),
        convolutions=("query", "value", "conv1d"),
    ),
    "vit": Architecture(
        "ViTConfig",
        {**_VIT, "image_size": 16, "patch_size": 4, "num_channels": 3},
        (*_ATTENTION, "fc1", "fc2"),
        ("fc1", "fc2"),
        ("q_proj", "v_proj"),
        ("layernorm_before",),
        convolutions=("projection",),
    ),
    "qwen2": Architecture("Qwen2Config", _DECODER, *_LLAMA),
    "qwen3": Architecture("Qwen3Config", {**_DECODER, "head_dim": 8}, *_LLAMA),
    "gpt2": Architecture(
        "GPT2Config",
        {**_GPT2, **_NAMED, "pad_token_id": 0},
        ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"),
        ("c_fc", "mlp.c_proj"),
        ("attn.c_proj",),
        ("ln_1", "ln_2"),
        "wte",
    ),
    # scales what it looks up
    "gemma3": Architecture(
        "Gemma3TextConfig",
        {**_DECODER, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
        *_LLAMA,
    ),
    # one tensor per expert on disk, one stack of all when loaded
    "qwen3-moe": Architecture(
        "Qwen3MoeConfig",
        {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 16, "decoder_sparse_step": 1},
        *_MOE,
        experts=("experts.gate_up_proj", "experts.down_proj"),
    ),
    "mixtral": Architecture(
        "MixtralConfig",
        {**_EXPERTS, "num_local_experts": 4},
        *_MOE,
        experts=("experts.gate_up_proj", "experts.down_proj"),
    ),
    # stacks of experts on disk too, [in, out], some of them square
    "gpt-oss": Architecture(
        "GptOssConfig",
        {**_EXPERTS, "num_local_experts": 4, "intermediate_size": HIDDEN, "sliding_window": 16},
        *_MOE,
        experts=("experts.gate_up_proj", "experts.down_proj"),
    ),
    # heads: the output layer shares the embedding's numbers, or scores
    "bert-mlm": Architecture("BertConfig", _ENCODER, *_BERT, auto="AutoModelForMaskedLM", sentence="SparseEncoder"),
    "bert-scores": Architecture(
        "BertConfig",
        _ENCODER,
        *_BERT,
        auto="AutoModelForSequenceClassification",
        sentence="CrossEncoder",
        changes={"num_labels": 1},
    ),
    "qwen3-lm": Architecture(
        "Qwen3Config",
        {**_DECODER, "head_dim": 8, "tie_word_embeddings": True},
        *_LLAMA,
        auto="AutoModelForCausalLM",
    ),
}


@functools.cache
def base(architecture: str, dtype: Dtype = "float32", layout: Layout = "plain") -> Path:
    """A base model's directory."""
    made = ARCHITECTURES[architecture]
    folder = new_folder(f"{architecture}-{layout}")
    if layout == "folder":
        return _in_folder(base(architecture, dtype, "sentence"), folder)
    if layout in ("sentence", "dense"):
        sentence_model(base(architecture, dtype), made.sentence, layout).save_pretrained(str(folder))
        return folder
    made.make().to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if layout in ("shards", "pickled shards"):
        write_shards(folder, load_file(folder / "model.safetensors"), 3)
        (folder / "model.safetensors").unlink()
    if layout in ("pickled", "pickled shards"):
        _pickle(folder)
    return folder


@quiet()
def sentence_model(transformer: Path, model_class: str, layout: Layout) -> Any:
    """A Sentence Transformers model around a transformers directory."""
    import sentence_transformers
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    if model_class != "SentenceTransformer":
        return getattr(sentence_transformers, model_class)(str(transformer), device="cpu")
    modules: list[nn.Module] = [Transformer(str(transformer)), Pooling(HIDDEN, "mean")]
    if layout == "dense":
        modules += [dense(seed=3), Normalize()]
    return sentence_transformers.SentenceTransformer(modules=modules, device="cpu")


def dense(seed: int) -> Any:
    from sentence_transformers.base.modules import Dense

    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(16, HIDDEN, generator=generator), torch.randn(16, generator=generator)
    return Dense(HIDDEN, 16, init_weight=weight / HIDDEN**0.5, init_bias=bias / 10)


def inputs(architecture: str) -> dict[str, Tensor]:
    """What the transformers model of an architecture is called with: every token occurs, two rows are padded."""
    generator = torch.Generator().manual_seed(5)
    if ARCHITECTURES[architecture].pixels:
        return {"pixel_values": torch.randn(3, 3, 16, 16, generator=generator)}
    ids = torch.randperm(VOCABULARY - 5, generator=generator)[:120].reshape(6, 20) + 5
    mask = torch.ones_like(ids)
    mask[0, 15:] = mask[1, 9:] = 0
    ids[mask == 0] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _in_folder(model: Path, folder: Path) -> Path:
    """The older layout of a Sentence Transformers model, which has the transformer in a folder of its own."""
    import shutil

    shutil.copytree(model, folder, dirs_exist_ok=True)
    modules = json.loads((folder / "modules.json").read_text())
    own = folder / "0_Transformer"
    own.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
            path.rename(own / path.name)
    modules[0]["path"] = own.name
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def _pickle(folder: Path) -> None:
    """Store the weights as torch.save does."""
    for file in sorted(folder.glob("*.safetensors")):
        torch.save(load_file(file), folder / file.name.replace("model", "pytorch_model").replace("safetensors", "bin"))
        file.unlink()
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        content = json.loads(index.read_text())
        renamed = {
            name: file.replace("model", "pytorch_model").replace("safetensors", "bin")
            for name, file in content["weight_map"].items()
        }
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({**content, "weight_map": renamed}))
        index.unlink()
