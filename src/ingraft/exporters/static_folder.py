"""The directory of a static model: what Sentence Transformers loads without model2vec, its card and its manifest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ingraft.adapted.quiet import quiet
from ingraft.card import CARD
from ingraft.exporters.distil import DTYPE, LEFT_OUT, SIF_COEFFICIENT, Distilled, distiller_versions
from ingraft.exporters.folder import write_distilled_manifest
from ingraft.exporters.result import StaticResult
from ingraft.exporters.source import Source
from ingraft.files import human_bytes
from ingraft.front_matter import card_front, split_card
from ingraft.layout import read_layout
from ingraft.manifest import versions
from ingraft.portable import ModelFiles, portable_files

# A licence goes with what is made of its work; nothing else of the teacher's directory does.
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "COPYING")
_KEPT_METADATA = ("language", "license", "license_name", "license_link", "base_model")


def write_model(source: Source, distilled: Distilled, folder: Path) -> None:
    """Write the model into `folder`, in the names that older releases of Sentence Transformers know too.

    The names of the teacher's prompts stay and their texts go: in a mean of vectors a prompt moves every text alike.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    normalize = [Normalize()] if source.layout.modules[-1].kind == "Normalize" else []
    model = SentenceTransformer(
        modules=[StaticEmbedding(distilled.tokenizer, embedding_weights=distilled.vectors), *normalize],
        prompts=dict.fromkeys(source.live.prompts or {}, ""),
        similarity_fn_name=source.live.similarity_fn_name,
        device="cpu",
    )
    with quiet():
        model.save_pretrained(str(folder), create_model_card=False)
    weights = folder / "model.safetensors"
    weights.chmod((folder / "modules.json").stat().st_mode)  # safetensors makes a file that its owner alone can read
    for file in portable_files(ModelFiles.of_directory(folder), read_layout(folder)):
        (folder / file.path).write_text(file.text, encoding="utf-8")
    for path in sorted(source.root.iterdir()):
        if path.is_file() and path.name.upper().startswith(_LICENCES):
            shutil.copyfile(path, folder / path.name)


def write_card(source: Source, folder: Path, result: StaticResult) -> None:
    """Write a card of its own: the teacher's describes another model. Its licence, language and base are taken over."""
    given = source.root / CARD
    known = split_card(given.read_text(encoding="utf-8-sig", errors="replace"))[0] if given.is_file() else None
    metadata: dict[str, Any] = {name: known[name] for name in _KEPT_METADATA if known and name in known}
    metadata |= {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "sentence-similarity", "static-embedding", "model2vec", "ingraft"],
    }
    (folder / CARD).write_text(f"{card_front(metadata)}{_body(result)}", encoding="utf-8", errors="replace")


def write_manifest(source: Source, folder: Path, result: StaticResult) -> None:
    """Last of all: it holds the hashes of the other files."""
    section = result.to_dict()
    for name in ("output", "teacher", "architecture", "parameters"):  # the last three: of the teacher's own entry
        section.pop(name)
    section["versions"] = {**versions(), **distiller_versions()}
    section["settings"] = {"sif_coefficient": SIF_COEFFICIENT, "token_remove_pattern": LEFT_OUT, "dtype": DTYPE}
    write_distilled_manifest(source, folder, section)


def _body(result: StaticResult) -> str:
    teacher = result.teacher
    lines = [
        f"# A static model distilled from {teacher}",
        "",
        f"**This is another model than {teacher}**, from which ingraft distilled it with model2vec: one vector for "
        f"each of {result.tokens:,} tokens, in {result.dimensions} dimensions, and their mean for a text. It has no "
        "transformer, reads no word order, and its embeddings cannot be compared with the teacher's.",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("path/or/id")',
        "```",
        "",
        "## Export: static",
        "",
        f"The teacher is {result.architecture}, {result.parameters:,} parameters, with {result.pooling} pooling. The "
        f"similarities of all pairs of {result.texts} texts agree with the teacher's by Spearman's ρ = "
        f"{result.agreement:.4f}.",
        "",
        "| | size | texts/s |",
        "| --- | ---: | ---: |",
        *(f"| {v.name} | {human_bytes(v.nbytes)} | {v.speed_text} |" for v in result.variants),
    ]
    if result.metrics:
        lines += ["", "| metric | teacher | static |", "| --- | ---: | ---: |"]
        lines += [f"| {name} | {before:.4f} | {after:.4f} |" for name, (before, after) in result.metrics.items()]
    hashes = (
        "Versions, the teacher's sha256 and that of every file are in `ingraft.json`; `ingraft verify` compares them."
    )
    return "\n".join([*lines, "", hashes]) + "\n"
