"""Which weights an adapter was trained on: a fingerprint of the base, kept beside the adapter, compared by a merge."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ingraft.checkpoint import Checkpoint
from ingraft.checkpoint.transfer import open_files
from ingraft.errors import UnusableInput
from ingraft.files import read_json_object
from ingraft.reading import read_into

# Written by a training run into the adapter's directory.
RECORD_FILE = "ingraft_training.json"
_SAMPLE_BYTES = 64


def fingerprint(checkpoint: Checkpoint) -> str:
    """sha256, in hexadecimal, of every tensor's name, dtype and shape and of 64 bytes from its middle.

    In the order of names, so that the same weights in other shards have the same fingerprint. It tells models apart,
    and a fine-tuned model from its base; who changes a single number elsewhere goes unnoticed.
    """
    digest = hashlib.sha256()
    with open_files() as files:
        for info in sorted(checkpoint, key=lambda info: info.name):
            digest.update(f"{info.name}\0{info.dtype}\0{info.shape}\0".encode())
            sample = bytearray(min(_SAMPLE_BYTES, info.nbytes))
            if sample:
                read_into(files.get(info.file), info.start + (info.nbytes - len(sample)) // 2, sample)
            digest.update(sample)
    return digest.hexdigest()


def recorded_fingerprint(adapter: Path) -> tuple[str, str] | None:
    """Name and fingerprint of the base that the adapter in a directory was trained on; None where nothing says so."""
    if not (adapter / RECORD_FILE).is_file():
        return None
    base = read_json_object(adapter / RECORD_FILE).get("base")
    if not isinstance(base, dict) or not isinstance(base.get("fingerprint"), str):
        return None
    return str(base.get("name", "another base")), base["fingerprint"]


def check_trained_on(adapter: Path, base: str, checkpoint: Checkpoint) -> None:
    """UnusableInput when the adapter's directory says that it was trained on other weights than the base's."""
    recorded = recorded_fingerprint(adapter)
    if recorded is None:
        return
    name, trained_on = recorded
    found = fingerprint(checkpoint)
    if found != trained_on:
        raise UnusableInput(
            f"{adapter} was trained on other weights than those of {base}: the fingerprint of {name} was "
            f"{trained_on[:12]}…, here it is {found[:12]}….",
            hint="Pass the base that it was trained on with --base, or merge into this one with --other-base.",
        )
