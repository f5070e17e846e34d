"""A local directory for whatever the user named: itself, or a download from the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ingraft.errors import UnusableInput, first_line, nearest

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Other formats of the same weights are of no use to a merge.
_UNUSED = ("*.onnx", "onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.gguf", "coreml/*", "optimizer.pt")


def looks_like_repo_id(name: str) -> bool:
    return _REPO_ID.fullmatch(name) is not None


def expanded(name: str | Path) -> Path:
    """`name` with `~` for the home directory; a `~user` that nobody is called is a name like others."""
    return Path(os.path.expanduser(name))


def local_directory(name: str | Path, *, role: str, revision: str | None = None, hint: str = "") -> Path:
    """The directory that `name` stands for: a path, or a Hub id whose snapshot is downloaded (or found in the cache).

    `role` is `adapter` or `base model`, for messages. Raises UnusableInput when there is neither.
    """
    if not str(name):  # Path("") is the directory that one is in
        raise UnusableInput(f"The {role} has an empty name.", hint="Is a variable of the shell not set?")
    path = expanded(name)
    if path.is_dir():
        return path
    if path.is_file():
        hint = hint or f"Pass the directory that it lies in: {path.parent}"
        raise UnusableInput(f"The {role} {path} is a file; expected a directory.", hint=hint)
    hint = hint or f"Pass the directory of the {role}, or its id on the Hub."
    if not looks_like_repo_id(str(name)) or path.is_absolute():
        raise UnusableInput(f"The {role} {name} does not exist{_nearest_sibling(path)}.", hint=hint)
    return _download(str(name), role=role, revision=revision, hint=hint)


def _nearest_sibling(path: Path) -> str:
    parent = path.absolute().parent
    try:
        return nearest(path.name, [child.name for child in parent.iterdir() if child.is_dir()])
    except OSError:
        return ""


def _download(repo_id: str, *, role: str, revision: str | None, hint: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        if role == "base model":
            files = _without_pickled_twins(repo_id, revision)
            return Path(snapshot_download(repo_id, revision=revision, ignore_patterns=[*_UNUSED, *files]))
        return Path(snapshot_download(repo_id, revision=revision, ignore_patterns=list(_UNUSED)))
    except GatedRepoError:
        raise UnusableInput(
            f"The {role} {repo_id} is gated.", hint="Ask for access on its page, then: hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise UnusableInput(f"The {role} {repo_id} has no revision {revision}.", hint=hint) from None
    except RepositoryNotFoundError:
        if "/" not in repo_id and role == "base model":  # as Sentence Transformers spells its own models
            return _download(f"sentence-transformers/{repo_id}", role=role, revision=revision, hint=hint)
        raise UnusableInput(
            f"The {role} {repo_id} is neither a directory here{_nearest_sibling(Path(repo_id))} "
            "nor a repository on the Hub.",
            hint=f"{hint}\nA private one needs: hf auth login",
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = first_line(error).removeprefix("Got: ")
        raise UnusableInput(
            f"The {role} {repo_id} is no directory here{_nearest_sibling(Path(repo_id))}, "
            f"and the Hub did not give it: {reason}",
            hint=hint,
        ) from None


def _without_pickled_twins(repo_id: str, revision: str | None) -> list[str]:
    """Patterns of pickled weights to leave out, when the repository has them as safetensors too."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        # One request: list_repo_files would repeat it for half a minute where there is no network.
        files = HfApi().model_info(repo_id, revision=revision).siblings or []
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception:  # offline: the cache decides what there is
        return []
    names = [file.rfilename for file in files]
    has_safetensors = any(name.endswith(".safetensors") and "/" not in name for name in names)
    return ["pytorch_model*.bin", "*/pytorch_model*.bin"] if has_safetensors else []
