"""Signatures over directories: real keys, and every way in which files, keys and signatures can be other ones."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from model_signing import hashing, signing, verifying

from helpers.keys import write_keys
from ingraft.errors import UnusableInput
from ingraft.signing import private_key, public_key, sign, verify_signature
from ingraft.verification.report import Check


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path / "keys")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Some files in some folders, not signed."""
    folder = tmp_path / "model"
    for name in ("model.safetensors", "ingraft.json", "README.md", "1_Pooling/config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"of {name}")
    return folder


@pytest.fixture
def signed(model: Path, keys: tuple[Path, Path]) -> Path:
    sign(model, private_key(keys[0]))
    return model


def check(folder: Path, keys: tuple[Path, Path]) -> Check:
    return verify_signature(folder, public_key(keys[1]))


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_signature_of_every_curve_is_accepted(model: Path, tmp_path: Path, curve: Callable[[], Any]) -> None:
    keys = write_keys(tmp_path / "keys", ec.generate_private_key(curve()))

    assert sign(model, private_key(keys[0])) == model / "model.sig"

    found = check(model, keys)
    assert (found.name, found.passed, found.where) == ("signature", True, "")


def test_every_file_is_signed_and_none_changed(model: Path, keys: tuple[Path, Path]) -> None:
    before = contents(model)
    sign(model, private_key(keys[0]))
    after = contents(model)

    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"model.sig"}
    statement = json.loads(base64.b64decode(json.loads(after["model.sig"])["dsseEnvelope"]["payload"]))
    assert {resource["name"] for resource in statement["predicate"]["resources"]} == before.keys()


def test_the_library_itself_takes_our_signature_and_we_take_its_own(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    verifying.Config().use_elliptic_key_verifier(public_key=keys[1]).verify(signed, signed / "model.sig")

    (signed / "README.md").write_text("edited, and signed again")
    assert not check(signed, keys).passed
    config = signing.Config().use_elliptic_key_signer(private_key=keys[0])
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.sig"]))
    config.sign(signed, signed / "model.sig")

    assert check(signed, keys).passed


def test_directory_may_be_renamed(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    assert check(signed.rename(tmp_path / "renamed"), keys).passed


def test_directory_of_links_as_in_the_cache_of_the_hub(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    cache = tmp_path / "snapshot"
    for name in contents(signed):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).symlink_to(signed / name)

    assert check(cache, keys).passed
    (signed / "model.safetensors").write_text("changed")
    assert "model.safetensors" in check(cache, keys).where


def test_what_downloads_add_is_no_fault(signed: Path, keys: tuple[Path, Path]) -> None:
    for name in (".gitattributes", ".cache/huggingface/download/README.md.metadata"):
        (signed / name).parent.mkdir(parents=True, exist_ok=True)
        (signed / name).write_text("added")

    assert check(signed, keys).passed


def link_a_folder(folder: Path) -> None:
    other = folder.parent / "other"
    other.mkdir()
    (other / "config.json").write_text("of somebody else")
    (folder / "2_Dense").symlink_to(other, target_is_directory=True)


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda folder: (folder / "model.safetensors").write_text("other"), "Hash mismatch for 'model.safetensors'"),
        (lambda folder: (folder / "README.md").write_text("edited"), "Hash mismatch for 'README.md'"),
        (lambda folder: (folder / "README.md").unlink(), "Missing files in model 'model': README.md"),
        (lambda folder: (folder / "a\nb").write_text("new"), "Extra files found in model 'model': a b"),
        (lambda folder: (folder / ".hidden").write_text("new"), "Extra files found in model 'model': .hidden"),
        (link_a_folder, "not signed: 2_Dense"),
        (lambda folder: os.mkfifo(folder / "pipe"), "model.sig cannot be checked: Cannot use"),
        (lambda folder: (folder / "model.sig").unlink(), "there is no model.sig"),
        (lambda folder: (folder / "model.sig").write_text("{"), "model.sig is not JSON"),
        (lambda folder: (folder / "model.sig").write_bytes(b"\xff"), "model.sig is not UTF-8 text"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_named(
    signed: Path, keys: tuple[Path, Path], spoil: Callable[[Path], object], where: str
) -> None:
    spoil(signed)

    found = check(signed, keys)

    assert not found.passed
    assert where in found.where
    assert "\n" not in found.where


def test_model_that_cannot_be_signed(model: Path, keys: tuple[Path, Path]) -> None:
    (model / os.fsdecode(b"\xff")).write_text("")
    before = contents(model)

    with pytest.raises(UnusableInput, match="cannot be signed"):
        sign(model, private_key(keys[0]))

    assert contents(model) == before


def test_several_faults_are_named_together(signed: Path, keys: tuple[Path, Path]) -> None:
    for name in ("model.safetensors", "ingraft.json", "1_Pooling/config.json"):
        (signed / name).write_text("other")
    (signed / "new").write_text("new")

    assert check(signed, keys).where == (
        "Extra files found in model 'model': new; Hash mismatch for '1_Pooling/config.json'; "
        "Hash mismatch for 'ingraft.json' and 1 more"
    )


def test_another_key(signed: Path, tmp_path: Path) -> None:
    other = write_keys(tmp_path / "other")

    found = check(signed, other)

    assert (found.passed, found.where) == (False, "model.sig was made with another key")


def edited(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.sig"
    signature = json.loads(path.read_text())
    edit(signature)
    path.write_text(json.dumps(signature))


def forget_the_key(signature: dict[str, Any]) -> None:
    del signature["verificationMaterial"]["publicKey"]["hint"]


def allow_other_weights(signature: dict[str, Any]) -> None:
    statement = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))
    statement["predicate"]["serialization"]["ignore_paths"].append("model.safetensors")
    signature["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()


def test_forged_signatures(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the key's name in it, a signature is still one with that key; with other contents it is none."""
    other = write_keys(tmp_path / "other")
    edited(signed, forget_the_key)

    assert check(signed, keys).passed
    assert check(signed, other).where == "model.sig is not what the key's owner signed"
    assert capsys.readouterr().out == ""  # where JSON is printed

    edited(signed, allow_other_weights)
    assert check(signed, keys).where == ("model.sig is not what the key's owner signed")


@pytest.mark.parametrize(
    "edit",
    [
        lambda signature: signature.clear(),
        lambda signature: signature.update(verificationMaterial=None),
        lambda signature: signature.update(verificationMaterial={}),
        lambda signature: signature.update(dsseEnvelope=None),
        lambda signature: signature.pop("dsseEnvelope"),
        lambda signature: signature["dsseEnvelope"].update(signatures=[]),
        lambda signature: signature["dsseEnvelope"].update(payload="%"),
        lambda signature: signature["dsseEnvelope"].update(payloadType="text/plain"),
        lambda signature: signature.update(mediaType="another"),
    ],
)
def test_damaged_signatures_are_failed_checks(
    signed: Path, keys: tuple[Path, Path], edit: Callable[[dict[str, Any]], object]
) -> None:
    edited(signed, edit)

    found = check(signed, keys)

    assert not found.passed
    assert "model.sig" in found.where
    assert "\n" not in found.where


def test_file_that_the_signer_left_out_is_no_signed_one(model: Path, keys: tuple[Path, Path]) -> None:
    config = signing.Config().use_elliptic_key_signer(private_key=keys[0])
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.sig", "model.safetensors"]))
    config.sign(model, model / "model.sig")

    assert check(model, keys).where == "not signed: model.safetensors"


def test_keys_that_cannot_be_used(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    locked, _ = write_keys(tmp_path / "locked", password="secret")
    rsa_keys = write_keys(tmp_path / "rsa", rsa.generate_private_key(65537, 2048))
    curve_keys = write_keys(tmp_path / "curve", ec.generate_private_key(ec.SECP256K1()))
    edwards_keys = write_keys(tmp_path / "edwards", ed25519.Ed25519PrivateKey.generate())
    text, cut = tmp_path / "text.pem", tmp_path / "cut.pem"
    text.write_text("secret")
    cut.write_text(private.read_text()[:60])

    for read, path, message in [
        (private_key, private.parent / "kei.pem", "does not exist (nearest: key.pem)"),
        (private_key, private.parent, "cannot be read"),
        (private_key, text, "is no PEM file; expected a private key"),
        (private_key, cut, "holds no private key that can be used"),
        (private_key, public, "holds a public key; expected the private one"),
        (private_key, locked, "is locked with a password"),
        (private_key, rsa_keys[0], "expected an elliptic-curve key (P-256, P-384 or P-521)"),
        (private_key, curve_keys[0], "expected an elliptic-curve key (P-256, P-384 or P-521)"),
        (private_key, edwards_keys[0], "expected an elliptic-curve key (P-256, P-384 or P-521)"),
        (public_key, public.parent / "publik.pem", "does not exist (nearest: public.pem)"),
        (public_key, private, "holds a private key; expected the public one"),
        (public_key, rsa_keys[1], "holds no public key that can be used"),
        (public_key, curve_keys[1], "expected an elliptic-curve key"),
        (public_key, edwards_keys[1], "expected an elliptic-curve key"),
    ]:
        with pytest.raises(UnusableInput) as error:
            read(path)
        assert str(path) in error.value.message
        assert message in error.value.message
        assert "openssl" in error.value.hint
        assert "\n" not in str(error.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_hints_make_keys_that_can_be_used(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for read, path in ((private_key, Path("KEY.pem")), (public_key, Path("PUBLIC.pem"))):
        with pytest.raises(UnusableInput) as error:
            read(path)
        subprocess.run(error.value.hint.partition(": ")[2].split(), check=True, capture_output=True)

    sign(model, private_key(Path("KEY.pem")))

    assert check(model, (Path("KEY.pem"), Path("PUBLIC.pem"))).passed


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)

    for read, path in ((private_key, keys[0]), (public_key, keys[1])):
        with pytest.raises(UnusableInput, match="model-signing, which is not installed") as error:
            read(path)
        assert error.value.hint == "Run: pip install 'ingraft[sign]'"
