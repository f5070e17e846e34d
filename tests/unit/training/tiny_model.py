"""A real Sentence Transformers model that is built in a second: BERT with 2 layers of width 32, random weights."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

WORDS = [f"{kind}{number}" for kind in ("left", "right") for number in range(24)]


def save_tiny_model(folder: Path, *, dense: bool = False, prompts: dict[str, str] | None = None) -> Path:
    """Write the model to `folder`; with `dense` it ends in a Dense module."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer import modules

    plain = folder.with_name(f"{folder.name}-transformer")
    config = save_tiny_transformer(plain)
    parts: list[Any] = [Transformer(str(plain)), modules.Pooling(config.hidden_size)]
    if dense:
        from sentence_transformers.base.modules import Dense

        parts.append(Dense(config.hidden_size, 16))
    SentenceTransformer(modules=parts, prompts=prompts).save_pretrained(str(folder))
    return folder


def save_tiny_transformer(folder: Path) -> Any:
    """The plain transformers model below it, with a word-level WordPiece tokenizer; returns its config."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    model = BertModel(config)
    # A third of a word's vector says which number it is, the rest is noise, which training can learn to overlook.
    numbers = torch.randn(24, 12)
    vectors = torch.cat([torch.cat([numbers, numbers]), torch.randn(48, 20)], dim=1)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[len(special) :] = vectors
    model.save_pretrained(folder)
    return config


def translations(rows: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Pairs that can be learnt: three words of one kind and the words of the other kind with their numbers."""
    chosen = random.Random(seed).sample(list(itertools.permutations(range(24), 3)), rows)
    return [(" ".join(f"left{n}" for n in row), " ".join(f"right{n}" for n in row)) for row in chosen]
