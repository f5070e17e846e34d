"""`ingraft doctor` on merged models: what it says, its exit codes, and a fix that current releases do not notice."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy
import pytest

from helpers.files import edit_json, snapshot, stored_tensors
from helpers.merging import cli, merged
from helpers.models import TEXTS, copy_of, lora_config, quiet, sentence_adapter, sentence_base

OLDER = ["sentence-transformers==3.4", "sentence-transformers==5.1", "infinity"]


@functools.cache
def adapter() -> Path:
    return sentence_adapter(sentence_base("bert", dense=True), lora_config("bert"))


@functools.cache
def kept() -> Path:
    """As Sentence Transformers writes it now."""
    return merged(adapter(), "--layout", "keep")


def options(servers: list[str]) -> list[str]:
    return [word for server in servers for word in ("--for", server)]


def verdicts(out: str) -> dict[str, str]:
    return {server["server"]: server["verdict"] for server in json.loads(out)["servers"]}


@pytest.mark.parametrize(
    ("layout", "servers"), [("portable", ["tei", "vllm", "vllm==0.23"]), ("legacy", [*OLDER, "tei", "vllm==0.23"])]
)
def test_a_merge_in_the_right_layout_is_ready(layout: str, servers: list[str]) -> None:
    run = cli("doctor", merged(adapter(), "--layout", layout), *options(servers))

    assert (run.code, run.err) == (0, "")
    verdicts = [line.split("  ")[-1] for line in run.out.splitlines() if not line.startswith("  ")]
    assert verdicts == ["ready"] * len(servers)


def test_older_releases_want_the_legacy_layout() -> None:
    run = cli("doctor", merged(adapter()), *options(OLDER))

    assert run.code == 1
    assert run.out.count("will not start") == 3
    assert "puts older names in the place of the newer ones." in run.out


def test_a_merge_as_it_was_is_not() -> None:
    run = cli("doctor", kept(), *options([*OLDER, "tei"]))

    assert (run.code, run.err) == (1, "")
    assert run.out.count("will not start") == 4
    assert "modules.json has types of Sentence Transformers 5.4" in run.out
    assert "[router/src/lib.rs, PoolConfig]" in run.out
    assert f"ingraft doctor {kept()} --fix OUT rewrites modules.json" in run.out


def test_without_a_name_nothing_fails() -> None:
    run = cli("doctor", kept(), "--format", "json")

    assert (run.code, run.err) == (0, "")
    found = verdicts(run.out)
    assert len(found) == 7
    assert (found["tei 1.9.3"], found["vllm 0.32"]) == ("will not start", "ready")


@pytest.mark.parametrize(("layout", "servers"), [("portable", ["tei", "vllm==0.23"]), ("legacy", [*OLDER, "tei"])])
def test_fix_makes_it_ready_and_changes_nothing(layout: str, servers: list[str], tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    before = snapshot(kept())
    run = cli("doctor", kept(), "--fix", tmp_path / "fixed", *options(servers), "--format", "json")

    assert (run.code, run.err) == (0, "")
    assert set(verdicts(run.out).values()) == {"ready"}
    assert "modules.json" in json.loads(run.out)["rewritten"]
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    assert [name for name in json.loads(run.out) if f"`{name}`" not in page] == []
    assert snapshot(kept()) == before
    assert stored_tensors(tmp_path / "fixed") == stored_tensors(kept())
    with quiet():
        found, expected = (
            SentenceTransformer(str(path), device="cpu").encode(TEXTS) for path in (tmp_path / "fixed", kept())
        )
    numpy.testing.assert_array_equal(found, expected)
    # The same files as if it had been merged so. (The manifest describes the files of the merge.)
    wanted = snapshot(merged(adapter(), "--layout", layout))
    assert snapshot(tmp_path / "fixed") == {path: found for path, found in wanted.items() if path != "ingraft.json"}


def test_an_adapter_needs_the_merge() -> None:
    run = cli("doctor", adapter(), "--for", "tei")

    assert run.code == 1
    assert run.out.splitlines()[0] == "tei 1.9.3  needs the merge"
    assert cli("doctor", adapter(), "--for", "llama.cpp").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((adapter, "--for", "vlm"), "No rules for the server vlm (nearest: vllm)"),
        ((adapter, "--fix", "out"), "is an adapter"),
        ((lambda: merged(adapter()), "--for", "tei", "--fix", "out"), "its files are as these servers want them"),
        ((lambda: kept() / "1_Pooling",), "neither a model nor an adapter"),
        ((lambda: kept() / "nothing",), "does not exist"),
    ],
)
def test_unusable_input(
    arguments: tuple[object, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directory, *rest = arguments
    assert callable(directory)

    run = cli("doctor", directory(), *map(str, rest))

    assert run.code == 2
    assert message in run.err
    assert not [*tmp_path.iterdir()]


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    model = copy_of(kept())
    (model / "1_Pooling" / "config.json").write_text("{")

    run = cli("doctor", model, "--fix", tmp_path / "out")

    assert run.code == 2
    assert "1_Pooling/config.json is not JSON" in run.err
    assert not (tmp_path / "out").exists()


def test_fix_does_not_hide_what_it_cannot_mend(tmp_path: Path) -> None:
    model = copy_of(kept())
    edit_json(model / "1_Pooling" / "config.json", pooling_mode="max")

    run = cli("doctor", model, "--fix", tmp_path / "out", "--for", "tei")

    assert run.code == 1
    assert (tmp_path / "out" / "modules.json").is_file()
    assert "pooling is max" in run.out
