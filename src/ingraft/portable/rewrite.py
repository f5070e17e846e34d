"""Which small files of a model differ in the portable layout, with their new content."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from ingraft.files import to_json
from ingraft.layout import TRANSFORMER_CONFIGS, TRANSFORMER_TYPES, Layout
from ingraft.portable.files import ModelFiles, first_of, joined
from ingraft.portable.modules import CONFIG_NAMES, module_config, old_type
from ingraft.portable.tokenizer import special_tokens_map, tokenizer_config
from ingraft.portable.transformer import longest_input, model_config, reads_text_only, sentence_config
from ingraft.steps import WrittenFile

# A processor for more than text: its maximum length and its tokens are not only in tokenizer_config.json.
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def portable_files(files: ModelFiles, layout: Layout, *, legacy: bool = False) -> list[WrittenFile]:
    """The files of the model that are written anew for older readers; nothing where the files are as these want them.

    layout  the model's; its files are looked up in `files` alone
    legacy  for Sentence Transformers before 5.4, which take a module's config as arguments and refuse a name that they
            do not know: older names in the place of newer ones, defaults left out
    Sentence Transformers 6.2 computes exactly the same with the files returned as with those that they replace.
    """
    return [*_module_files(files, layout, legacy), *_transformer_files(files, layout, legacy)]


def _module_files(files: ModelFiles, layout: Layout, legacy: bool) -> Iterator[WrittenFile]:
    entries = files.json("modules.json")
    if isinstance(entries, list):
        renamed = copy.deepcopy(entries)
        for entry in renamed:
            entry["type"] = old_type(entry["type"], _task(files, entry["path"]), legacy=legacy)
        if renamed != entries:
            yield _written("modules.json", renamed, "types in the names of older releases")
    for module in layout.modules:
        if module.kind == "Router":
            yield from _router(files, module.path, legacy)
        if not module.path or module.kind in TRANSFORMER_TYPES:
            continue
        path = joined(module.path, CONFIG_NAMES.get(module.kind, "config.json"))
        config = files.object(path)
        if config is not None and (older := module_config(module.kind, config, legacy=legacy)) != config:
            yield _written(path, older, f"older names {'for' if legacy else 'beside'} the newer ones")


def _router(files: ModelFiles, folder: str, legacy: bool) -> Iterator[WrittenFile]:
    path = joined(folder, "router_config.json")
    config = files.object(path)
    types = config.get("types") if config else None
    if config is None or not isinstance(types, dict) or not all(isinstance(kind, str) for kind in types.values()):
        return  # of a Router within a Router, which is not looked at any further
    older: dict[str, Any] = copy.deepcopy(config)
    older["types"] = {
        name: old_type(kind, _task(files, joined(folder, name)), legacy=legacy) for name, kind in types.items()
    }
    parameters = older.get("parameters")
    if legacy and isinstance(parameters, dict) and not parameters.get("route_mappings", True):
        del parameters["route_mappings"]  # empty, and an argument that Router has had since 5.4 only
    if older != config:
        yield _written(path, older, "types in the names of older releases")


def _task(files: ModelFiles, folder: str) -> str | None:
    """The task of the transformer in `folder`, where the older class for it says the same."""
    path = first_of(files, folder, TRANSFORMER_CONFIGS)
    config = files.object(path) if path else None
    return str(config.get("transformer_task")) if config and reads_text_only(config) else None


def _transformer_files(files: ModelFiles, layout: Layout, legacy: bool) -> Iterator[WrittenFile]:
    for folder in layout.transformers:
        text_only = not any(joined(folder, name) in files for name in _PROCESSORS)
        path = joined(folder, "config.json")
        config = files.object(path)
        if config is None:
            continue
        older, added = model_config(config, _activation(files, layout, config))
        if added:
            yield _written(path, older, f"older names beside the newer ones: {', '.join(added)}")
        tokenizer_path = joined(folder, "tokenizer_config.json")
        tokenizer = files.object(tokenizer_path)
        if layout.is_sentence_transformers:
            longest = longest_input(config, tokenizer) if text_only else None
            yield from _sentence_config(files, folder, longest, legacy)
        if tokenizer is None or not text_only:
            continue
        older = tokenizer_config(tokenizer)
        if older != tokenizer:
            yield _written(tokenizer_path, older, "class and tokens in the names of transformers 4")
        special = special_tokens_map(older)
        path = joined(folder, "special_tokens_map.json")
        if special and path not in files:
            yield _written(path, special, "special tokens in a file of their own, as older releases had them")


def _sentence_config(files: ModelFiles, folder: str, longest: int | None, legacy: bool) -> Iterator[WrittenFile]:
    path = first_of(files, folder, TRANSFORMER_CONFIGS)
    config = (files.object(path) if path else None) or {}
    older = sentence_config(config, longest, legacy=legacy)
    if older != config:
        path = path or joined(folder, TRANSFORMER_CONFIGS[0])
        yield _written(path, older, "max_seq_length and do_lower_case" + ("; newer keys left out" if legacy else ""))


def _activation(files: ModelFiles, layout: Layout, config: dict[str, Any]) -> str | None:
    """A CrossEncoder's activation function, unless it is what every release takes by default."""
    if layout.model_class != "CrossEncoder":
        return None
    name = (files.object("config_sentence_transformers.json") or {}).get("activation_fn")
    labels = config.get("id2label")
    default = "Sigmoid" if isinstance(labels, dict) and len(labels) == 1 else "Identity"
    return name if isinstance(name, str) and name.rsplit(".", 1)[-1] != default else None


def _written(path: str, value: Any, reason: str) -> WrittenFile:
    return WrittenFile(path, to_json(value), reason, portable=True)


def with_portable(written: Sequence[WrittenFile], portable: Sequence[WrittenFile]) -> list[WrittenFile]:
    """`written` with the portable files, which take the place of those at the same path and keep their reason."""
    own = {file.path: file for file in written}
    for file in portable:
        before = own.get(file.path)
        reason = f"{before.reason}; {file.reason}" if before else file.reason
        own[file.path] = WrittenFile(file.path, file.text, reason, portable=before is None)
    return list(own.values())
