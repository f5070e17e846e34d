"""A directory that looks like the merged model and holds the base's weights: what the output would be, unmerged."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingraft.adapter import Adapter
from ingraft.base_model import BaseModel
from ingraft.checkpoint import find_weights
from ingraft.errors import UnusableInput
from ingraft.layout import Layout, read_layout
from ingraft.output_files import output_files, output_folders


@dataclass(frozen=True)
class Assembled:
    """`layout` is of the assembled directory; `folders` are those of the adapted transformers, in the order given."""

    layout: Layout
    folders: tuple[str, ...]


@contextlib.contextmanager
def assembled(adapters: Sequence[Adapter], bases: Sequence[BaseModel]) -> Iterator[Assembled]:
    """Adapters and their bases as one directory that Sentence Transformers can load; it is gone afterwards."""
    root, layouts = adapters[0].root, [base.layout for base in bases]
    trained = read_layout(root)
    folders = output_folders(layouts, trained)
    files = output_files(layouts[0], root, trained, folders, [adapter.folder for adapter in adapters])
    with tempfile.TemporaryDirectory(prefix="ingraft-unmerged-", ignore_cleanup_errors=True) as name:
        target = Path(name)
        for file in files.carried:
            _link(file.source, target / file.path)
        for base in bases:
            for path in _weights(base):
                _link(path, target / folders[base.layout.transformer] / path.name)
        yield Assembled(read_layout(target), tuple(folders[layout.transformer] for layout in layouts))


def _weights(base: BaseModel) -> list[Path]:
    """The base's shards and their index."""
    found = find_weights(base.layout.transformer_folder)
    if found is None:
        raise UnusableInput(f"{base.layout.transformer_folder} holds no weights.")
    return list(dict.fromkeys([found, *(shard.path for shard in base.checkpoint.shards)]))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError:  # a system or a file system without symbolic links
        shutil.copyfile(source, target)
