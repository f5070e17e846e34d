"""ingraft.json, and the hashes in it."""

from __future__ import annotations

import importlib.metadata
from datetime import datetime, timezone
from pathlib import Path

import pytest

from helpers.handmade import load_json, write_adapter, write_base
from helpers.merging import merged
from ingraft.manifest import versions
from ingraft.output_files import MANIFEST


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = versions()
    assert found["torch"] == importlib.metadata.version("torch")
    assert found["ingraft"] == importlib.metadata.version("ingraft")

    def none(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    assert list(versions()) == ["python"]


def test_manifest_says_what_was_merged(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter" / "default", base, alpha_pattern={"value": 2})

    manifest = load_json(merged(tmp_path / "adapter") / MANIFEST)

    created = datetime.fromisoformat(manifest["created"])
    assert abs((datetime.now(timezone.utc) - created).total_seconds()) < 600
    assert manifest["base"]["files"].keys() == {"model.safetensors"}
    assert manifest["adapter"]["name"] == str(tmp_path / "adapter")
    assert manifest["adapter"]["r"] == 4
    tensors = {tensor["name"]: tensor for tensor in manifest["tensors"]}
    assert tensors["encoder.layer.0.attention.self.query.weight"]["settings"] == [{"scale": 2.0}]
    assert tensors["encoder.layer.0.attention.self.value.weight"]["settings"] == [{"scale": 0.5}]
    assert MANIFEST not in manifest["files"]
    assert adapter.is_dir()
