"""Small merged models of the classes that are exported, and a file of pairs to measure them on."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from helpers.models import HIDDEN, TEXTS, VOCABULARY, copy_of, new_dense, new_folder, plain_base, quiet


@functools.cache
@quiet()
def last_token_model(architecture: str, padding_side: str) -> Path:
    """A decoder with last-token pooling, Dense, Normalize and a prompt."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    transformer = Transformer(str(plain_base(architecture)))
    transformer.tokenizer.padding_side = padding_side
    model = SentenceTransformer(
        modules=[transformer, Pooling(HIDDEN, "lasttoken"), new_dense(seed=3), Normalize()],
        prompts={"query": "search query "},
        device="cpu",
    )
    return _saved(model)


@functools.cache
@quiet()
def cross_encoder() -> Path:
    """BERT with one score; its tokenizer joins two texts."""
    from sentence_transformers import CrossEncoder

    base = plain_base("bert", head="AutoModelForSequenceClassification")
    return _saved(CrossEncoder(str(base), num_labels=1, device="cpu", model_kwargs={"ignore_mismatched_sizes": True}))


@functools.cache
@quiet()
def sparse_encoder() -> Path:
    from sentence_transformers import SparseEncoder

    return _saved(SparseEncoder(str(plain_base("bert", head="AutoModelForMaskedLM")), device="cpu"))


def pairs_file(scores: bool = False) -> Path:
    """Two dozen pairs out of the words that the small tokenizer knows."""
    words = " ".join(TEXTS).split()
    file = new_folder("pairs") / "pairs.jsonl"
    rows = []
    for number in range(24):
        first, second = (" ".join(words[start : start + 4]) for start in (number % 12, (number * 7 + 3) % 12))
        row: dict[str, object] = {"sentence1": f"{first} {words[number % 9]}", "sentence2": second}
        rows.append({**row, "score": number / 24} if scores else {"anchor": row["sentence1"], "positive": second})
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def _saved(model: object) -> Path:
    folder = new_folder(type(model).__name__)
    model.save_pretrained(str(folder))  # type: ignore[attr-defined]
    return folder


@functools.cache
@quiet()
def pooled_model(
    architecture: str = "bert", pooling: str = "mean", normalize: bool = True, similarity: str = "cosine"
) -> Path:
    """Transformer, pooling and perhaps Normalize, which is what a static model can be distilled from."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    end = [Normalize()] if normalize else []
    return _saved(
        SentenceTransformer(
            modules=[Transformer(str(plain_base(architecture))), Pooling(HIDDEN, pooling), *end],
            prompts={"query": "search query "},
            similarity_fn_name=similarity,
            device="cpu",
        )
    )


@quiet()
def with_tokenizer(model: Path, kind: str) -> Path:
    """A copy of `model` whose tokenizer is trained on our texts: `bpe` on bytes, `unigram` on words with a mark."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer: object
    if kind == "bpe":
        made = Tokenizer(models.BPE(unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=VOCABULARY, special_tokens=special, unk_token="[UNK]", show_progress=False
        )
    made.train_from_iterator(TEXTS * 8, trainer)
    ends = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    folder = copy_of(model)
    PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=60,
    ).save_pretrained(folder)
    return folder
