"""Write a model anew with the files that older readers and servers take."""

from __future__ import annotations

import shutil
from pathlib import Path

from ingraft.errors import UnusableInput
from ingraft.hub import local_directory
from ingraft.layout import read_layout
from ingraft.output_files import OWN_FILES
from ingraft.portable import ModelFiles, portable_files
from ingraft.publish import check_output, published


def rewrite(path: str | Path, output: str | Path, *, legacy: bool = False, overwrite: bool = False) -> tuple[str, ...]:
    """Copy the model in `path` to `output` with its small files in the portable or legacy layout, as `merge` has them.

    Returns what was rewritten. Weights are copied byte for byte. `output` appears complete or not at all. Raises
    UnusableInput when there is nothing to rewrite.
    """
    root, output = local_directory(path, role="model"), Path(output)
    if any(root.glob("**/adapter_config.json")):
        raise UnusableInput(f"{root} is an adapter.", hint=f"Merge it: ingraft merge {root} {output}")
    check_output(output, overwrite=overwrite, inputs=(root,))
    files = ModelFiles.of_directory(root)
    written = portable_files(files, read_layout(root), legacy=legacy)
    if not written:
        raise UnusableInput(
            f"{root} needs no rewriting: its files are as these servers want them.", hint="Nothing was written."
        )
    replaced = {file.path for file in written}
    with published(output, overwrite=overwrite) as folder:
        for name, source in sorted(files.sources.items()):
            # Our own files describe others by their hashes, and would be wrong.
            if name not in replaced and name not in OWN_FILES:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        for file in written:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.text, encoding="utf-8")
    return tuple(file.path for file in written)
