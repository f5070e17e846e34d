"""The merged model in a process of its own, in which `peft` cannot be imported: what everybody gets who loads it.

Beside its outputs it measures how far they move when the adapted weights are shaken by as much as rounding may have
moved them: that is the difference that a right merge may show.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from ingraft.errors import UnusableInput
from ingraft.verification.encoding import Outputs, Rows
from ingraft.verification.layers import LayerAnswer, answers_of
from ingraft.verification.tasks import Items, Task, measure

_SHAKES = 2
# `-c` puts the current directory first, where a folder may be called ingraft or torch: it goes.
_START = (
    "import sys; sys.path.remove(''); sys.modules['peft'] = None; "
    "from ingraft.verification.plain_process import main; main(sys.argv[1])"
)


@dataclass(frozen=True)
class PlainOutputs:
    """Outputs of the merged model, what they are with shaken weights, its layers' answers by folder and name, and how
    it does in the user's task."""

    outputs: Outputs
    shaken: tuple[Rows, ...]
    layers: Mapping[str, Mapping[str, LayerAnswer]] = field(default_factory=dict)
    task: Items = field(default_factory=dict)


def encode_without_peft(
    merged: Path,
    texts: Sequence[str],
    *,
    touched: Mapping[str, Sequence[str]],
    unit: float,
    everywhere: bool = False,
    task: Task | None = None,
    trust_remote_code: bool,
) -> PlainOutputs:
    """Load `merged` where peft cannot be imported, in float32, and encode `texts`.

    touched     folder of a transformer → its modules and parameters that the merge changed
    unit        how much rounding may have changed a weight, as a share of it
    everywhere  all weights were rounded and not those alone, as by a merge into another dtype
    Raises UnusableInput with the reason when it cannot be loaded or run.
    """
    with tempfile.TemporaryDirectory(prefix="ingraft-plain-") as name:
        job = Path(name) / "job.json"
        job.write_text(
            json.dumps(
                {
                    "merged": str(merged.absolute()),
                    "texts": list(texts),
                    "touched": {folder: list(names) for folder, names in touched.items()},
                    "unit": unit,
                    "everywhere": everywhere,
                    "task": task,
                    "threads": torch.get_num_threads(),
                    "trust_remote_code": trust_remote_code,
                }
            ),
            encoding="utf-8",
        )
        paths = os.pathsep.join(dict.fromkeys(path or os.getcwd() for path in sys.path))
        run = subprocess.run(
            [sys.executable, "-c", _START, str(job)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
            check=False,
        )
        result = Path(name) / "result.npz"
        if run.returncode or not result.is_file():
            lines = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
            raise UnusableInput(f"{merged} cannot be run without peft: {lines[-1] if lines else 'no answer'}")
        with numpy.load(result) as found:
            shaken = tuple(found[f"shaken{number}"] for number in range(_SHAKES))
            layers = _read_layers(found)
            in_task = json.loads(str(found["task"]))
            return PlainOutputs(Outputs(found["rows"], found["of_text"]), shaken, layers, in_task)


def main(job_file: str) -> None:
    """What runs in that process."""
    from ingraft.adapted.quiet import quiet
    from ingraft.adapted.sentence import load_model
    from ingraft.adapted.transformers import transformers_by_folder
    from ingraft.layout import read_layout
    from ingraft.verification.encoding import outputs
    from ingraft.verification.shaking import shaken

    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    layout = read_layout(Path(job["merged"]))
    model_class = layout.model_class or "SentenceTransformer"
    try:
        model = load_model(layout, "The merged model", trust_remote_code=job["trust_remote_code"], dtype="float32")
        transformers = transformers_by_folder(model, layout)
        weights = _touched(transformers, {} if job["everywhere"] else job["touched"])
    except UnusableInput as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    with quiet():
        found = outputs(model, model_class, job["texts"])
        layers = {folder: answers_of(transformers[folder], names) for folder, names in job["touched"].items()}
        results: dict[str, Any] = {"rows": found.rows, "of_text": found.of_text, **_written_layers(layers)}
        in_task = measure(model, job["task"]) if job["task"] else {}
        results["task"] = numpy.array(json.dumps(in_task))
        for number in range(_SHAKES):
            with shaken(weights, job["unit"], seed=number + 1):
                results[f"shaken{number}"] = outputs(model, model_class, job["texts"]).rows
    numpy.savez(Path(job_file).with_name("result.npz"), **results)


def _written_layers(layers: Mapping[str, Mapping[str, LayerAnswer]]) -> dict[str, Any]:
    """As arrays: what they are called in the first, their numbers in three each."""
    flat = [(folder, name, answer) for folder, answers in layers.items() for name, answer in answers.items()]
    arrays: dict[str, Any] = {"layers": numpy.array(json.dumps([(f, n, a.width) for f, n, a in flat]))}
    for number, (_, _, answer) in enumerate(flat):
        arrays[f"layer{number}"] = numpy.stack([answer.product, answer.offset, answer.squares])
    return arrays


def _read_layers(arrays: Any) -> Mapping[str, Mapping[str, LayerAnswer]]:
    found: dict[str, dict[str, LayerAnswer]] = {}
    for number, (folder, name, width) in enumerate(json.loads(str(arrays["layers"]))):
        product, offset, squares = arrays[f"layer{number}"]
        found.setdefault(folder, {})[name] = LayerAnswer(product, offset, squares, width)
    return found


def _touched(models: Mapping[str, Any], touched: Mapping[str, Sequence[str]]) -> list[Tensor]:
    """The parameters that the names stand for; all of them where no name is known."""
    found: list[Tensor] = []
    for folder, names in touched.items():
        model: nn.Module = models[folder]
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and any(name == item or name.startswith(f"{item}.") for item in names):
                found.append(parameter)
    return found or [value for model in models.values() for value in model.parameters() if value.is_floating_point()]
