"""The files of a merged model: each small one is what the plan carries or writes, and there are no others."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from ingraft.output_files import OWN_FILES
from ingraft.steps import MergePlan
from ingraft.verification.report import Check

# The model card may be extended by its owner; it changes nothing that the model computes.
FREE = ("README.md",)


def verify_files(plan: MergePlan, folder: Path) -> tuple[Check, ...]:
    """Compare configs, tokenizer and module weights in `folder` with their sources; other files there are a failure."""
    differing = differing_files(plan, folder)
    expected = [file.path for file in plan.carried] + [file.path for file in plan.written]
    return (
        Check(
            "files",
            not differing,
            "configs, tokenizer and the other modules are those of the adapter's directory or the base",
            len(expected) - len(differing),
            len(expected),
            ", ".join(differing[:3]),
        ),
        no_other_files(folder, [*expected, *(shard.file for shard in plan.shards)]),
    )


def differing_files(plan: MergePlan, folder: Path) -> list[str]:
    """Paths of the small files that are missing in `folder` or are not what the plan carries or writes."""
    expected = {file.path: file.source.read_bytes() for file in plan.carried}
    expected |= {file.path: file.text.encode("utf-8") for file in plan.written}
    return [
        path
        for path, content in sorted(expected.items())
        if Path(path).name not in FREE and not ((folder / path).is_file() and (folder / path).read_bytes() == content)
    ]


def no_other_files(folder: Path, known: Collection[str]) -> Check:
    """A file that the merge did not write may be loaded in place of one that it did. Hidden ones are never loaded."""
    others = [path for path in _visible(folder) if path not in known and PurePosixPath(path).name not in FREE]
    others = [path for path in others if path not in OWN_FILES]
    return Check(
        "no other files",
        not others,
        "nothing lies in the directory that the merge did not put there",
        where=", ".join(others[:3]),
    )


def no_adapter_left(folder: Path) -> Check:
    """An adapter beside merged weights would be applied a second time when the model is loaded."""
    left = [
        path for path in _visible(folder) if PurePosixPath(path).name.startswith(("adapter_config", "adapter_model"))
    ]
    return Check(
        "no adapter left",
        not left,
        "no adapter file lies beside the merged weights",
        where=left[0] if left else "",
    )


def _visible(folder: Path) -> Iterator[str]:
    """Files below `folder`, relative; hidden ones, and those in hidden directories, are left out."""
    for path in sorted(folder.rglob("*")):
        relative = PurePosixPath(path.relative_to(folder).as_posix())
        if not any(part.startswith(".") for part in relative.parts) and not path.is_dir():
            yield str(relative)
