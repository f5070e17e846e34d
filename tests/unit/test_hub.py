"""A local directory for whatever the user named, without a network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ingraft.errors import UnusableInput
from ingraft.hub import expanded, local_directory, looks_like_repo_id


@pytest.mark.parametrize("name", ["bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2", "a/b.c_d-1"])
def test_repo_ids(name: str) -> None:
    assert looks_like_repo_id(name)


@pytest.mark.parametrize("name", ["", "./a", "../a", "/a/b", "a/b/c", "~/a", "a b", "a/", "https://huggingface.co/a/b"])
def test_no_repo_ids(name: str) -> None:
    assert not looks_like_repo_id(name)


def test_directory_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert local_directory(tmp_path / "org", role="adapter") == tmp_path / "org"
    assert local_directory("org/model", role="adapter") == Path("org/model")
    assert local_directory("~/org", role="adapter") == tmp_path / "org"


def test_missing_directory_and_its_nearest_sibling(tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir()

    with pytest.raises(UnusableInput, match=r"The adapter .*adapter does not exist \(nearest: adapters\)\. Look there"):
        local_directory(tmp_path / "adapter", role="adapter", hint="Look there.")
    with pytest.raises(UnusableInput, match="does not exist"):
        local_directory("./none", role="adapter")
    with pytest.raises(UnusableInput, match=r"does not exist.*\. Pass the directory of the adapter, or its id"):
        local_directory(tmp_path / "none" / "none", role="adapter")


def test_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").touch()

    with pytest.raises(UnusableInput, match=r"The adapter .* is a file; expected a directory") as refused:
        local_directory(tmp_path / "adapter_model.safetensors", role="adapter")
    assert refused.value.hint == f"Pass the directory that it lies in: {tmp_path}"


def test_an_empty_name_is_not_the_directory_that_one_is_in() -> None:
    with pytest.raises(UnusableInput, match=r"The adapter has an empty name\. Is a variable"):
        local_directory("", role="adapter")


@pytest.mark.parametrize("role", ["adapter", "base model"])
def test_offline_is_said_in_one_line(role: str) -> None:
    with pytest.raises(UnusableInput, match=f"The {role} org/none is no directory here, and the Hub did") as refused:
        local_directory("org/none", role=role)

    assert "\n" not in refused.value.message


def test_mistyped_name_that_could_be_the_hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter").mkdir()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UnusableInput, match=r"The adapter adaptr is no directory here \(nearest: adapter\), and"):
        local_directory("adaptr", role="adapter")


def response_error(kind: type[Exception]) -> Exception:
    """An error of the Hub's client; its constructor wants a response."""
    error = kind.__new__(kind)
    Exception.__init__(error, "404 Client Error\n\nmore lines")
    return error


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GatedRepoError, "org/model is gated. .*hf auth login"),
        (RepositoryNotFoundError, "neither a directory here nor a repository on the Hub(.|\\n)*hf auth login"),
        (RevisionNotFoundError, "org/model has no revision v9"),
        (LocalEntryNotFoundError, "the Hub did not give it: 404 Client Error Pass the directory"),
    ],
)
def test_what_the_hub_says(kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise response_error(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)

    with pytest.raises(UnusableInput, match=message):
        local_directory("org/model", role="adapter", revision="v9")


@pytest.mark.parametrize("has_safetensors", [True, False])
def test_base_is_downloaded_in_one_format(
    has_safetensors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(repo_id: str, **arguments: Any) -> str:
        asked.update(arguments, repo_id=repo_id)
        return str(tmp_path)

    files = ["config.json", "pytorch_model.bin", *(["model.safetensors"] if has_safetensors else [])]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)

    assert local_directory("org/model", role="base model", revision="abc") == tmp_path
    assert (asked["repo_id"], asked["revision"]) == ("org/model", "abc")
    assert ("pytorch_model*.bin" in asked["ignore_patterns"]) == has_safetensors
    assert "*.onnx" in asked["ignore_patterns"]


def test_adapter_is_downloaded_with_its_pickled_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """adapter_model.bin may be all there is."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **a: asked.update(a) or str(tmp_path))

    local_directory("org/adapter", role="adapter")

    assert not any("bin" in pattern for pattern in asked["ignore_patterns"])


def test_home_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))

    assert expanded("~/x") == tmp_path / "x"
    assert expanded(Path("~nobody is called so/x")) == Path("~nobody is called so/x")
