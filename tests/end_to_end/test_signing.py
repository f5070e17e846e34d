"""`merge --sign` and `verify --key`: what is signed is the whole output; what cannot be signed is not published."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from model_signing import signing

from helpers.files import edit_json, snapshot
from helpers.handmade import write_adapter, write_base, write_modules
from helpers.keys import write_keys
from helpers.merging import Run, cli
from ingraft.exporters.source import carried_files
from ingraft.layout import read_layout
from ingraft.serving.fix import rewrite


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `adapter`, `keys`, and `signed`: their merge."""
    root = tmp_path_factory.mktemp("signing")
    write_adapter(root / "adapter", write_base(root / "base", sentence_transformers=True))
    private, _ = write_keys(root / "keys")
    run = cli("merge", root / "adapter", root / "signed", "--sign", private)
    assert (run.code, run.err) == (0, "")
    assert "signed    every file, in model.sig\n" in run.out
    return root


@pytest.fixture
def signed(inputs: Path, tmp_path: Path) -> Path:
    """The signed model, to be spoilt."""
    return Path(shutil.copytree(inputs / "signed", tmp_path / "signed"))


def checks(run: Run) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(run.out)["checks"]}


def test_signature_is_one_check_more(inputs: Path, signed: Path) -> None:
    public = inputs / "keys" / "public.pem"
    for options in ([], ["--adapter", inputs / "adapter", "--no-embeddings"]):
        without = cli("verify", signed, *options, "--format", "json")
        found = cli("verify", signed, *options, "--key", public, "--format", "json")

        assert (without.code, found.code) == (0, 0)
        assert list(checks(found)) == [*checks(without), "signature"]
        assert checks(found)["signature"]["passed"]


def test_only_the_signature_tells_who_made_the_manifest(inputs: Path, signed: Path) -> None:
    """Whoever changes a file and what ingraft.json says about it passes every check but this one."""
    edit_json(signed / "config.json", architectures=["Another"])
    manifest = json.loads((signed / "ingraft.json").read_text())
    sha256 = hashlib.sha256((signed / "config.json").read_bytes()).hexdigest()
    edit_json(signed / "ingraft.json", files={**manifest["files"], "config.json": sha256})

    assert cli("verify", signed).code == 0
    run = cli("verify", signed, "--key", inputs / "keys" / "public.pem")

    assert run.code == 1
    assert "FAILED    signature: Hash mismatch for 'config.json'; Hash mismatch for 'ingraft.json'\n" in run.out


def test_another_key_and_no_signature(inputs: Path, signed: Path, tmp_path: Path) -> None:
    _, other = write_keys(tmp_path / "other")
    run = cli("verify", signed, "--key", other)
    assert run.code == 1
    assert "FAILED    signature: model.sig was made with another key\n" in run.out

    (signed / "model.sig").unlink()
    run = cli("verify", signed, "--key", inputs / "keys" / "public.pem")
    assert run.code == 1
    assert "FAILED    signature: there is no model.sig\n" in run.out


def test_signed_model_of_another_tool(inputs: Path, tmp_path: Path) -> None:
    """Without a manifest the signature is what the files are compared with."""
    model = Path(shutil.copytree(inputs / "base", tmp_path / "model"))
    signing.Config().use_elliptic_key_signer(private_key=inputs / "keys" / "key.pem").sign(
        model, tmp_path / "model.sig"
    )
    assert cli("verify", model, "--key", inputs / "keys" / "public.pem").code == 1  # it lies elsewhere
    (tmp_path / "model.sig").rename(model / "model.sig")

    run = cli("verify", model, "--key", inputs / "keys" / "public.pem", "--format", "json")

    assert run.code == 0
    assert list(checks(run)) == ["signature"]


def test_json_names_the_signature(inputs: Path, tmp_path: Path) -> None:
    for options, expected in (
        ([], None),
        (["--sign", inputs / "keys" / "key.pem"], str(tmp_path / "out" / "model.sig")),
    ):
        run = cli("merge", inputs / "adapter", tmp_path / "out", "--overwrite", *options, "--format", "json")

        assert json.loads(run.out)["signature"] == expected
        assert (tmp_path / "out" / "model.sig").is_file() == bool(options)


def test_signature_goes_to_the_hub_with_the_files(signed: Path) -> None:
    run = cli("push", signed, "me/model", "--dry-run", "--format", "json")

    assert run.code == 0
    assert "model.sig" in json.loads(run.out)["files"]


def test_signature_stays_with_the_files_that_it_is_about(inputs: Path, signed: Path, tmp_path: Path) -> None:
    """Not in what is made of a signed model, or with a signed adapter."""
    assert Path("model.sig") not in carried_files(read_layout(signed), weights=True)

    adapter = write_adapter(tmp_path / "adapter", signed)
    write_modules(adapter)
    (adapter / "model.sig").write_text("{}")
    run = cli("merge", adapter, tmp_path / "out")
    assert (run.code, run.err) == (0, "")
    assert not (tmp_path / "out" / "model.sig").exists()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("kei.pem", "does not exist (nearest: key.pem)"),
        ("public.pem", "holds a public key; expected the private one"),
    ],
)
def test_no_key_no_merge(key: str, message: str, inputs: Path, tmp_path: Path) -> None:
    for options in ([], ["--dry-run"]):
        run = cli("merge", inputs / "adapter", tmp_path / "new" / "out", "--sign", inputs / "keys" / key, *options)

        assert (run.code, run.out) == (2, "")
        assert message in run.err.splitlines()[0]
        assert snapshot(tmp_path) == {}


def test_no_key_no_proof(inputs: Path, signed: Path) -> None:
    run = cli("verify", signed, "--key", inputs / "keys" / "key.pem")

    assert (run.code, run.out) == (2, "")
    assert "holds a private key; expected the public one" in run.err


def test_signature_that_cannot_be_written(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(config: object, model: Path, signature: Path) -> None:
        signature.write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device", str(signature))

    monkeypatch.setattr(signing.Config, "sign", full)

    run = cli("merge", inputs / "adapter", tmp_path / "new" / "out", "--sign", inputs / "keys" / "key.pem")

    assert run.code == 2
    assert "No space left on device. Nothing was published." in run.err
    assert snapshot(tmp_path) == {}


def test_key_is_neither_published_nor_replaced(inputs: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(inputs / "base", tmp_path / "base"))
    private = Path(shutil.copy(inputs / "keys" / "key.pem", base / "mine.pem"))
    run = cli("merge", inputs / "adapter", tmp_path / "out", "--base", base, "--sign", private)
    assert run.code == 2
    assert f"{private} would be copied into the merged model." in run.err

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").touch()  # an earlier output, which --overwrite replaces
    private = private.rename(tmp_path / "out" / "mine.pem")
    run = cli("merge", inputs / "adapter", tmp_path / "out", "--overwrite", "--sign", private)
    assert run.code == 2
    assert "is, holds or lies in" in run.err
    assert snapshot(tmp_path / "out").keys() == {"mine.pem", "model.safetensors"}


def test_rewritten_model_has_no_signature_of_the_old_one(inputs: Path, tmp_path: Path) -> None:
    run = cli("merge", inputs / "adapter", tmp_path / "kept", "--layout", "keep", "--sign", inputs / "keys" / "key.pem")
    assert (run.code, run.err) == (0, "")

    assert rewrite(tmp_path / "kept", tmp_path / "fixed")

    left = {path.name for path in (tmp_path / "kept").iterdir()} - {
        path.name for path in (tmp_path / "fixed").iterdir()
    }
    assert left == {"model.sig", "ingraft.json"}
