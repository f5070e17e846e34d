"""One commit to the Hub, or none: what is sent is checked before, and compared with what arrived after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingraft.card import CARD
from ingraft.errors import CheckFailed, IngraftError, UnusableInput, first_line
from ingraft.hub import looks_like_repo_id
from ingraft.upload.card import short_card
from ingraft.upload.contents import Contents, open_contents, weights_beside

_PATHS_AT_ONCE = 500
_WHOLE_WEIGHTS = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}


@dataclass(frozen=True)
class PushResult:
    """`url` is that of the commit, empty after a dry run; `compared` files have the Hub's hash."""

    contents: Contents
    repo_id: str
    revision: str
    url: str
    compared: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "repo_id": self.repo_id,
            "revision": self.revision,
            "url": self.url,
            "kind": self.contents.kind,
            "files": dict(self.contents.files),
            "left_out": list(self.contents.left_out),
            "nbytes": self.contents.nbytes,
            "checked": self.contents.checked,
            "compared": self.compared,
        }


def push(
    folder: str | Path, repo_id: str, *, private: bool = False, revision: str | None = None, dry_run: bool = False
) -> PushResult:
    """Upload `folder` to `repo_id` in one commit; a repository that is not there is made.

    revision  a branch, made if it is not there (default: main)
    dry_run   check and list, and ask no server
    Raises UnusableInput when the directory is refused or the Hub does not take it: then nothing is committed, and what
    was sent need not be sent again. CheckFailed when a file arrived differently.
    """
    if not str(folder):  # Path("") is the directory that one is in
        raise UnusableInput("The directory to upload has an empty name.", hint="Is a variable of the shell not set?")
    contents = open_contents(Path(folder))
    if not looks_like_repo_id(repo_id) or "/" not in repo_id:
        raise UnusableInput(
            f"{repo_id!r} is no repository of the Hub; expected NAME/REPOSITORY.", hint="For example: me/merged"
        )
    branch = revision or "main"
    if dry_run:
        return PushResult(contents, repo_id, branch, "", 0)
    with _in_words(repo_id):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(library_name="ingraft")
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if branch != "main":
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        _check_remote(contents, repo_id, list(api.list_repo_files(repo_id, revision=branch)))
        operations = [CommitOperationAdd(name, str(contents.root / name)) for name in contents.files]
        if not contents.has_card:
            operations.append(CommitOperationAdd(CARD, short_card(contents).encode()))
        commit = api.create_commit(
            repo_id, operations, commit_message=f"Upload {contents.kind} with ingraft", revision=branch
        )
        compared = _compare(api, repo_id, commit.oid, operations)
    return PushResult(contents, repo_id, branch, commit.commit_url, compared)


def _check_remote(contents: Contents, repo_id: str, there: list[str]) -> None:
    """Refuse to put weights beside others that are in the repository already: an adapter would be applied twice, and
    of two sets of weights a loader takes the one that it finds first."""
    names = {Path(name).name for name in there}
    if contents.kind != "adapter" and "adapter_config.json" in names:
        what = "an adapter"
    elif contents.kind == "adapter" and names & _WHOLE_WEIGHTS:
        what = "whole weights"
    else:
        what = ""
    if what:
        raise UnusableInput(
            f"{repo_id} holds {what} already; together with this {contents.kind} it would be applied twice.",
            hint="Name another repository.",
        )
    beside = weights_beside(contents, there)
    if beside:
        more = f" and {len(beside) - 1} more" if beside[1:] else ""
        raise UnusableInput(
            f"{repo_id} holds {beside[0]}{more}, which {contents.root} has not: two sets of weights would lie there.",
            hint="Delete what is old on the repository's page first, or name another repository.",
        )


def _compare(api: Any, repo_id: str, commit: str, operations: list[Any]) -> int:
    """How many files have the hash that the Hub tells for them; it tells one for all large files."""
    sent = {item.path_in_repo: item.upload_info for item in operations}
    names, compared = list(sent), 0
    for start in range(0, len(names), _PATHS_AT_ONCE):
        for found in api.get_paths_info(repo_id, names[start : start + _PATHS_AT_ONCE], revision=commit):
            info = sent.pop(found.path)
            different = found.size != info.size
            if found.lfs is not None and info.sha256 is not None:
                different = different or found.lfs.sha256 != info.sha256.hex()
                compared += 1
            if different:
                raise CheckFailed(f"{found.path} arrived differently in {repo_id} at {commit}.", hint="Push again.")
    if sent:
        raise CheckFailed(f"{next(iter(sent))} did not arrive in {repo_id} at {commit}.", hint="Push again.")
    return compared


@contextmanager
def _in_words(repo_id: str) -> Iterator[None]:
    """Whatever the client raises, as what a person can do about it."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    login = "Log in with a token that may write: hf auth login"
    again = "Nothing was committed. Push again: what was sent is not sent twice."
    try:
        yield
    except IngraftError:
        raise
    except LocalTokenNotFoundError:
        raise UnusableInput("You are not logged in to the Hub.", hint=login) from None
    except OfflineModeIsEnabled:
        raise UnusableInput("HF_HUB_OFFLINE is set, so nothing can be uploaded.", hint="Unset it.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        reason = (error.server_message or str(error)).splitlines()[0]
        if status in (401, 403):
            raise UnusableInput(f"The Hub does not let you write to {repo_id}: {reason}", hint=login) from None
        raise UnusableInput(f"The Hub did not take {repo_id}: {reason}", hint=again) from None
    except Exception as error:
        # The client stands on httpx or httpx2, which is told by the version.
        expected = isinstance(error, (OSError, RuntimeError, ValueError))
        if not expected and not type(error).__module__.startswith("httpx"):
            raise
        cause = error.__cause__ or error
        reason = first_line(cause)
        raise UnusableInput(f"{repo_id} could not be uploaded: {reason}", hint=again) from None
