"""The page of a training run, from what the run left in the adapter's directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingraft.files import human_bytes, read_json_object
from ingraft.fingerprint import RECORD_FILE
from ingraft.hashes import FileHashes
from ingraft.report import words
from ingraft.report.html import fill, write_page
from ingraft.verification.report import VerificationReport

_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class MergeVerdict:
    """What came of merging the adapter: `proof` is None where it was not, `reason` then says why."""

    output: Path
    proof: VerificationReport | None
    reason: str = ""


@dataclass(frozen=True)
class Change:
    """A metric before and after the training; of the task, or `general`."""

    metric: str
    before: float
    after: float
    general: bool = False

    @property
    def difference(self) -> float:
        return self.after - self.before


def write_training_report(
    path: Path, adapter: Path, *, merge: MergeVerdict | None = None, settings: str = "", command: str = ""
) -> None:
    """Write the training that left `adapter` as an HTML page to `path`.

    merge     what came of merging it, where it was to be merged
    settings  all settings of the run, as YAML
    command   the command line that the run is from
    Raises UnusableInput when `path` cannot be written or there is no record of a training.
    """
    write_page(path, render_training(adapter, merge=merge, settings=settings, command=command))


def render_training(adapter: Path, *, merge: MergeVerdict | None = None, settings: str = "", command: str = "") -> str:
    """The page as text."""
    from markupsafe import Markup

    from ingraft.report import curves

    record = read_json_object(adapter / RECORD_FILE)
    course, best, steps = record["course"], record["best"], record["steps"]
    return fill(
        "training.html",
        command=command,
        name=adapter.name,
        record=record,
        data=record["data"],
        base=record["base"],
        adapter=record["adapter"],
        size=human_bytes((adapter / _WEIGHTS).stat().st_size),
        changes=[
            *_changes(record["before"], record["after"]),
            *_changes(record["general_before"], record["general_after"], general=True),
        ],
        losses=Markup(curves.losses(course, steps)),
        learning_rates=Markup(curves.learning_rates(course, steps)),
        checkpoints=Markup(curves.checkpoints(course, best["metric"], best["step"], steps)) if best else "",
        best=best,
        steps=steps,
        seconds=record["seconds"],
        hashes=_hashes(record["files"], adapter),
        merge=merge,
        settings=settings,
        base_name=words.short_name(record["base"]["name"]),
    )


def _changes(before: Mapping[str, float], after: Mapping[str, float], *, general: bool = False) -> list[Change]:
    return [Change(metric, before[metric], after[metric], general) for metric in after]


def _hashes(files: Mapping[str, str], adapter: Path) -> Sequence[tuple[str, str, str]]:
    """(role, file, sha256): of the data as the run read them, of the adapter as it is now."""
    own = [adapter / _WEIGHTS, adapter / "adapter_config.json"]
    with FileHashes(1) as pool:
        pool.start(own)
        found = [("adapter", path.name, pool.get(path) or "") for path in own]
    return [*(("data", name, sha256) for name, sha256 in files.items()), *found]
