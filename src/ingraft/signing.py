"""A signature over every file of a directory: made and checked with a pair of keys by the library model-signing."""

from __future__ import annotations

import ast
import base64
import contextlib
import importlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ingraft.errors import UnusableInput, first_line, nearest
from ingraft.files import read_json_object
from ingraft.output_files import SIGNATURE
from ingraft.verification.report import Check

# The library's configuration of a signer or verifier, with its key.
Signer: TypeAlias = Any
Verifier: TypeAlias = Any

_LEFT_OUT = (SIGNATURE, ".cache")  # `hf download --local-dir` keeps its notes in .cache
_LEFT_OUT_BY_THE_LIBRARY = (".git", ".gitattributes", ".github", ".gitignore")
_MISMATCH = "Signature mismatch: "  # what the library says when the signature is good and the files are not
_CURVES = "an elliptic-curve key (P-256, P-384 or P-521)"
_NEW_KEY = "Make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY.pem"
_PUBLIC_KEY = "Write it with: openssl pkey -in KEY.pem -pubout -out PUBLIC.pem"


def private_key(path: Path) -> Signer:
    """What signs with the private key in the PEM file `path`. UnusableInput when there is none that can be used."""
    config = _library("signing").Config()
    return _with_key(path, "private", lambda: config.use_elliptic_key_signer(private_key=path))


def public_key(path: Path) -> Verifier:
    """What checks signatures with the public key in the PEM file `path`. UnusableInput as for `private_key`."""
    config = _library("verifying").Config()
    return _with_key(path, "public", lambda: config.use_elliptic_key_verifier(public_key=path))


def sign(folder: Path, signer: Signer) -> Path:
    """Sign every file in `folder` and write the signature there; returns its path.

    The library notes the directory's name of the moment. It is part of no check: a signed directory may be renamed.
    """
    try:
        signer.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)
    except ValueError as error:  # a file's name that is no text, say
        raise UnusableInput(f"The model cannot be signed: {first_line(error)}", hint="Nothing was published.") from None
    return folder / SIGNATURE


def verify_signature(folder: Path, verifier: Verifier) -> Check:
    """Is every file in `folder` the one that was signed with the verifier's key, and was none added?"""
    return Check(
        "signature",
        not (fault := _fault(folder, verifier)),
        f"{SIGNATURE} was made with the key and covers every file as it is",
        where=fault,
    )


def _fault(folder: Path, verifier: Verifier) -> str:
    """What is wrong with the signature, in a line; empty when nothing is."""
    path = folder / SIGNATURE
    if not path.is_file():
        return f"there is no {SIGNATURE}"
    try:
        signature = read_json_object(path)
        with contextlib.redirect_stdout(io.StringIO()):  # the library prints what it thinks of older signatures
            verifier.set_hashing_config(_hashing().set_allow_symlinks(True)).verify(folder, path)
        unsigned = sorted(set(_files(folder)) - _signed(signature))
    except UnusableInput as error:
        return error.message
    except Exception as error:  # a file that somebody forged may lead the library anywhere
        return _in_words(error)
    return f"not signed: {', '.join(unsigned[:3])}" if unsigned else ""


def _hashing() -> Any:
    """How files are hashed: sha256 of each. Links are refused; in the Hub's cache all files are such."""
    return _library("hashing").Config().set_ignored_paths(paths=_LEFT_OUT)


def _signed(signature: dict[str, Any]) -> set[str]:
    """Names of the signed files. A signature may leave out files, as its maker liked: ours do not."""
    statement = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))
    return {resource["name"] for resource in statement["predicate"]["resources"]}


def _files(folder: Path) -> Iterator[str]:
    """What a signature has to cover. The library does not look into a linked directory, so the link itself counts."""
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if relative.parts[0] not in (*_LEFT_OUT, *_LEFT_OUT_BY_THE_LIBRARY) and (path.is_symlink() or path.is_file()):
            yield relative.as_posix()


def _in_words(error: Exception) -> str:
    text = first_line(error)
    if text.startswith(_MISMATCH):
        return _differences(text.removeprefix(_MISMATCH))
    if text.startswith("Key mismatch"):
        return f"{SIGNATURE} was made with another key"
    if type(error).__name__ == "InvalidSignature":
        return f"{SIGNATURE} is not what the key's owner signed"
    return f"{SIGNATURE} cannot be checked: {text}"


def _differences(printed: str) -> str:
    """The library's sentences about files that are changed, missing or new: a Python list as it prints it."""
    try:
        sentences = [str(sentence).partition(": Expected ")[0] for sentence in ast.literal_eval(printed)]
    except (ValueError, SyntaxError):
        return printed
    text = "; ".join(sentences[:3]) + (f" and {len(sentences) - 3} more" if sentences[3:] else "")
    return " ".join(text.split())  # names of files may hold line breaks


def _with_key(path: Path, kind: Literal["private", "public"], load: Callable[[], Any]) -> Any:
    hint = _NEW_KEY if kind == "private" else _PUBLIC_KEY
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        raise UnusableInput(f"The {kind} key {path} does not exist{_nearest_sibling(path)}.", hint=hint) from None
    except OSError as error:
        raise UnusableInput(f"The {kind} key {path} cannot be read: {error.strerror}.", hint=hint) from None
    other = "public" if kind == "private" else "private"
    if b"-----BEGIN" not in pem:
        raise UnusableInput(f"{path} is no PEM file; expected a {kind} key.", hint=hint)
    if f"{other.upper()} KEY-----".encode() in pem:
        raise UnusableInput(f"{path} holds a {other} key; expected the {kind} one.", hint=hint)
    if b"ENCRYPTED" in pem:
        raise UnusableInput(
            f"{path} is locked with a password, and ingraft asks for none.",
            hint=f"Unlock it for the merge: openssl pkey -in {path} -out KEY.pem",
        )
    try:
        return load()
    except Exception:  # of another kind, on another curve, cut off: as many types of errors
        raise UnusableInput(f"{path} holds no {kind} key that can be used; expected {_CURVES}.", hint=hint) from None


def _nearest_sibling(path: Path) -> str:
    try:
        return nearest(path.name, [child.name for child in path.absolute().parent.iterdir()])
    except OSError:
        return ""


def _library(module: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{module}")
    except ImportError:
        raise UnusableInput(
            "Signatures need the package model-signing, which is not installed.",
            hint="Run: pip install 'ingraft[sign]'",
        ) from None
