"""The comparison of answers: what a right merge looks like, and every way in which a wrong one is found out."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.models import copy_of, lora_config, new_folder, quiet, sentence_adapter, sentence_base, train_a_little
from ingraft.verification.embeddings import EmbeddingParity, compare, compare_with_live, embedding_parity
from ingraft.verification.encoding import Outputs
from ingraft.verification.plain_process import PlainOutputs

ROWS, WIDTH = 40, 24
GENERATOR = numpy.random.default_rng(0)
BASE = GENERATOR.standard_normal((ROWS, WIDTH))
EFFECT = GENERATOR.standard_normal((ROWS, WIDTH)) * 0.2
TEXTS = [f"text {number}" for number in range(ROWS // 2)]


def noise(size: float, seed: int) -> Any:
    return numpy.random.default_rng(seed).standard_normal((ROWS, WIDTH)) * size


def compared(merged: Any, rounding: float, *, adapted: Any = None) -> EmbeddingParity:
    """`merged` against base + effect, where rounding moves the answers by `rounding` per number."""
    owners = numpy.arange(ROWS) % len(TEXTS)

    def packed(rows: Any) -> Outputs:
        return Outputs(rows.astype(numpy.float32), owners[: len(rows)])

    shaken = tuple((merged + noise(rounding, seed)).astype(numpy.float32) for seed in (8, 9))
    truth = BASE + EFFECT if adapted is None else adapted
    return compare(
        packed(BASE),
        packed(truth),
        PlainOutputs(packed(merged), shaken),
        TEXTS,
        model_class="SentenceTransformer",
        stored="BF16",
    )


def failed(parity: EmbeddingParity) -> list[str]:
    return [check.name for check in parity.checks if not check.passed]


@pytest.mark.parametrize("rounding", [1e-7, 1e-4, 1e-2])
def test_a_right_merge_differs_by_rounding_alone(rounding: float) -> None:
    parity = compared(BASE + EFFECT + noise(rounding, 1), rounding)

    assert failed(parity) == []
    assert parity.present == pytest.approx(1.0, abs=0.02)
    assert 3 < parity.allowed / parity.difference < 12


@pytest.mark.parametrize("rounding", [1e-7, 1e-4, 1e-2])
@pytest.mark.parametrize(
    ("share", "names"),
    [
        (0.0, ["embeddings", "adapter's effect", "not the base"]),
        (0.5, ["embeddings", "adapter's effect"]),
        (2.0, ["embeddings", "adapter's effect"]),
        (-1.0, ["embeddings", "adapter's effect"]),
    ],
)
def test_the_base_half_a_scale_twice_and_the_wrong_sign(rounding: float, share: float, names: list[str]) -> None:
    parity = compared(BASE + share * EFFECT + noise(rounding, 1), rounding)

    assert failed(parity) == names
    assert parity.present == pytest.approx(share, abs=0.02)


def test_half_a_scale_is_found_where_rounding_hides_the_difference() -> None:
    """Rounding moves the answers as far as the adapter does, but in all directions."""
    rounding = 0.1

    right = compared(BASE + EFFECT + noise(rounding, 1), rounding)
    half = compared(BASE + EFFECT / 2 + noise(rounding, 1), rounding)

    assert failed(right) == []
    assert failed(half) == ["adapter's effect"]
    assert "merge with --dtype float32" in half.checks[1].where


def test_one_wrong_answer_among_many_is_found_and_named() -> None:
    merged = BASE + EFFECT + noise(1e-6, 1)
    merged[7] = BASE[7]

    parity = compared(merged, 1e-6)

    assert "embeddings" in failed(parity)
    assert parity.checks[0].where == "worst for 'text 7'"
    assert int(numpy.argmax(parity.by_text)) == 7


def test_an_adapter_without_effect_proves_nothing() -> None:
    parity = compared(BASE + noise(1e-7, 1), 1e-7, adapted=BASE)

    assert failed(parity) == ["adapter's effect", "not the base"]
    assert "does not change the outputs" in parity.checks[2].where


def test_not_a_number_passes_nothing() -> None:
    merged = BASE + EFFECT
    merged[3, 4] = numpy.nan

    assert failed(compared(merged, 1e-6)) == ["embeddings", "adapter's effect", "not the base"]


def test_answers_of_another_shape_fail() -> None:
    owners = numpy.arange(ROWS) % len(TEXTS)
    narrow = (BASE + EFFECT)[:, :-1]
    before, adapted, merged = (Outputs(r.astype(numpy.float32), owners) for r in (BASE, BASE + EFFECT, narrow))

    parity = compare(before, adapted, PlainOutputs(merged, ()), TEXTS, model_class="SentenceTransformer", stored="F32")

    assert failed(parity) == ["embeddings"]
    assert "40 rows of 23, not 40 rows of 24" in parity.checks[0].where


def test_figures_are_json() -> None:
    parity = compared(BASE + EFFECT + noise(1e-6, 1), 1e-6)

    assert json.loads(json.dumps(parity.figures()))["embeddings"]["texts"] == len(TEXTS)


# With real models, in two processes


@functools.cache
def pair(dtype: str = "float32") -> tuple[Path, Path]:
    base = sentence_base("bert", dtype)
    return base, sentence_adapter(base, lora_config("bert"))


def merged_by_hand(base: Path, adapter: Path, share: float = 1.0) -> Path:
    """W + share·s·B·A in the base's directory, rounded once: a merge that owes nothing to the package."""
    folder = copy_of(base)
    weights, tensors = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for key, a in tensors.items():
        if key.endswith(".lora_A.weight"):
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            delta = 2.0 * tensors[key.replace("lora_A", "lora_B")].double() @ a.double()
            weights[name] = (weights[name].double() + share * delta).to(weights[name].dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_real_merge_in_half_precision() -> None:
    base, adapter = pair("bfloat16")

    parity = embedding_parity(merged_by_hand(base, adapter), adapter, base)

    assert failed(parity) == []
    assert parity.texts == 32
    assert (parity.model_class, parity.stored) == ("SentenceTransformer", "BF16")
    assert parity.difference < 1e-2 < parity.effect


def test_a_merged_model_that_needs_peft_cannot_be_run() -> None:
    base, adapter = pair()

    parity = embedding_parity(_with_adapter(base, adapter), adapter, base, texts=["fever"])

    assert failed(parity) == ["embeddings"]
    assert re.search(r"cannot be run without peft: .*peft", parity.checks[0].where)
    assert "Traceback" not in parity.checks[0].where
    assert parity.figures() == {}


def _with_adapter(base: Path, adapter: Path) -> Path:
    """The mistake of leaving adapter files beside the weights."""
    folder = copy_of(base)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes((adapter / name).read_bytes())
    return folder


def test_a_live_model_is_compared_and_left_as_it_was() -> None:
    from sentence_transformers import SentenceTransformer

    base, _ = pair()
    with quiet():
        model = SentenceTransformer(str(base), device="cpu")
        model.add_adapter(lora_config("bert"))
        train_a_little(model[0])
        adapter = new_folder("live")
        model.save_pretrained(str(adapter))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    part = compare_with_live(merged_by_hand(base, adapter, 0.6), model)

    assert failed(part) == ["embeddings", "adapter's effect"]
    assert part.present == pytest.approx(0.6, abs=0.05)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
