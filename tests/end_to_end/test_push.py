"""`ingraft push` against a server that answers as the Hub does: one commit, or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.hub_server import Hub, hub_server
from helpers.merging import merged_once
from helpers.models import copy_of, lora_config, sentence_adapter, sentence_base, trainer_checkpoint


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as found:
        yield found


@pytest.fixture
def model() -> Path:
    """A merged model of a Dense module and a prompt, to be spoilt."""
    return copy_of(merged_once(_adapter()))


_made: dict[str, Path] = {}


def _adapter() -> Path:
    if "adapter" not in _made:
        _made["adapter"] = sentence_adapter(sentence_base("bert", dense=True), lora_config("bert"))
    return _made["adapter"]


def begin(hub: Hub, *arguments: str | Path, token: str = "hf_test") -> subprocess.Popen[str]:
    """The command in a process of its own: offline mode and endpoint are read when the client is imported."""
    settings = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "ingraft", "push", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **settings},
    )


def push(hub: Hub, *arguments: str | Path, token: str = "hf_test") -> tuple[int, str, str]:
    process = begin(hub, *arguments, token=token)
    out, err = process.communicate(timeout=60)

    return process.returncode, out, err


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_merged_model_arrives_whole_in_one_commit(hub: Hub, model: Path) -> None:
    (model / "README.md").write_text("# Edited by its owner\n")  # the one file that may be

    code, out, err = push(hub, model, "me/model", "--private", "--format", "json")

    assert (code, err) == (0, "")
    assert hub.files("me/model@main") == contents(model)
    assert len(hub.commits["me/model@main"]) == 1
    assert hub.private == {"me/model": True}
    facts = json.loads(out)
    assert facts["kind"] == "merged model"
    assert facts["compared"] == len([name for name in contents(model) if name.endswith(".safetensors")]) == 2


def test_adapter_goes_to_a_branch_with_a_card_and_without_the_trainer_s_state(hub: Hub) -> None:
    adapter = trainer_checkpoint(_adapter())
    (adapter / "README.md").unlink()
    (adapter / ".cache").mkdir()

    code, out, err = push(hub, adapter, "me/adapter", "--revision", "try-1")

    assert (code, err) == (0, "")
    found = hub.files("me/adapter@try-1")
    card = found.pop("README.md").decode()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    left = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}
    assert found == {name: content for name, content in contents(adapter).items() if name not in left}
    assert "left out  optimizer.pt" in out
    assert "me/adapter@main" not in hub.commits


def test_dry_run_asks_no_server(hub: Hub, model: Path) -> None:
    code, out, err = push(hub, model, "me/model", "--dry-run")

    assert (code, err) == (0, "")
    assert all(name in out for name in contents(model))
    assert "nothing was sent to me/model (main)" in out
    assert (hub.private, hub.commits) == ({}, {})


def test_interrupted_upload_commits_nothing_and_is_not_repeated(hub: Hub, model: Path) -> None:
    hub.hold = threading.Event()
    process = begin(hub, model, "me/model")
    deadline = time.monotonic() + 30
    while not hub.uploads and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.communicate()

    assert len(hub.uploads) == 1  # the other large file is on its way
    assert hub.commits == {}
    first = hub.uploads[0]
    hub.hold = None

    code, _, err = push(hub, model, "me/model")

    assert (code, err) == (0, "")
    assert hub.files("me/model@main") == contents(model)
    assert hub.uploads.count(first) == 1


def test_what_arrives_differently_is_a_failed_check(hub: Hub, model: Path) -> None:
    hub.spoil = True
    code, _, err = push(hub, model, "me/model")

    assert code == 1
    assert "arrived differently in me/model" in err


def test_refused_before_anything_is_sent(hub: Hub, model: Path) -> None:
    def spoilt(**changes: Any) -> Path:
        folder = copy_of(model)
        for name, content in changes.pop("files", {}).items():
            (folder / name).write_bytes(content)
        for name in changes.pop("without", []):
            (folder / name).unlink()
        return folder

    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    unproven = copy_of(model)
    manifest = json.loads((unproven / "ingraft.json").read_text())
    manifest["files"]["model.safetensors"] = None
    (unproven / "ingraft.json").write_text(json.dumps(manifest))
    refused = {
        spoilt(files={"model.safetensors": bytes(weights)}): "model.safetensors has another sha256",
        spoilt(files={"config.json": b"{}"}): "config.json has another sha256",
        spoilt(files={"adapter_config.json": b"{}"}): "it would be applied twice",
        spoilt(files={"extra.safetensors": b""}): "extra.safetensors",
        spoilt(without=["tokenizer.json"]): "tokenizer.json is missing",
        spoilt(without=["ingraft.json"]): "has no ingraft.json",
        unproven: "merged with --no-verify",
    }
    from helpers.merging import cli

    for folder, words in refused.items():
        run = cli("push", folder, "me/model")
        assert run.code == 2, words
        assert words in run.err
    assert "has an empty name" in cli("push", "", "me/model").err
    assert "expected NAME/REPOSITORY.\n  For example: me/merged\n" in cli("push", model, "model").err


def test_repository_with_the_adapter_in_it_is_refused(hub: Hub, model: Path) -> None:
    hub.commits["me/model@main"] = [{"adapter_config.json": b"{}"}]
    code, _, err = push(hub, model, "me/model")

    assert code == 2
    assert "me/model holds an adapter already" in err
    assert len(hub.commits["me/model@main"]) == 1


EARLIER = {
    "sharded": ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
    "pickled": ["pytorch_model.bin"],
    "in a folder": ["0_Transformer/model.safetensors"],
    "a module's": ["2_Dense/pytorch_model.bin"],
    "a graph": ["onnx/model.onnx"],
}


@pytest.mark.parametrize("layout", list(EARLIER))
def test_weights_of_another_layout_in_the_repository_are_refused(hub: Hub, model: Path, layout: str) -> None:
    """They would stay, and some loaders would take them."""
    there = dict.fromkeys([*EARLIER[layout], "config.json", "training_args.bin", "README.md"], b"old")
    hub.commits["me/model@main"] = [dict(there)]
    code, _, err = push(hub, model, "me/model")

    assert code == 2
    first, *others = sorted(EARLIER[layout])
    assert f"me/model holds {first}{f' and {len(others)} more' if others else ''}, which {model} has not" in err
    assert hub.commits["me/model@main"] == [there]


def test_an_earlier_version_is_replaced(hub: Hub, model: Path) -> None:
    there = dict.fromkeys(contents(model), b"old")
    beside = {".gitattributes": b"*", "checkpoint-5/model.safetensors": b"old", "training_args.bin": b"old"}
    hub.commits["me/model@main"] = [{**there, **beside}]
    code, _, err = push(hub, model, "me/model")

    assert (code, err) == (0, "")
    assert hub.files("me/model@main") == {**contents(model), **beside}


def test_a_damaged_adapter_and_a_run_without_one_are_refused(hub: Hub) -> None:
    from helpers.merging import cli

    adapter, run = copy_of(_adapter()), trainer_checkpoint(_adapter()).parent
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])

    for folder, words in ((adapter, "is cut off"), (run, "nothing to upload, checkpoint-7/ aside")):
        refused = cli("push", folder, "me/adapter")
        assert refused.code == 2
        assert words in refused.err
    assert not hub.commits


def test_an_adapter_with_weights_beside_its_own_is_refused(hub: Hub) -> None:
    from helpers.merging import cli

    adapter = copy_of(_adapter())
    hub.commits["me/adapter@main"] = [{"adapter_model.bin": b"old", "adapter_config.json": b"{}"}]
    code, _, err = push(hub, adapter, "me/adapter")
    assert code == 2
    assert f"me/adapter holds adapter_model.bin, which {adapter} has not" in err

    (adapter / "adapter_model.bin").write_bytes(b"old")
    run = cli("push", adapter, "me/adapter")
    assert run.code == 2
    assert "adapter_model.bin and adapter_model.safetensors: two sets of weights of one adapter" in run.err


def test_token_that_may_not_write(hub: Hub, model: Path) -> None:
    code, _, err = push(hub, model, "me/model", token="hf_other")

    assert code == 2
    assert "The Hub does not let you write to me/model" in err
    assert "hf auth login" in err
    assert hub.commits == {}
