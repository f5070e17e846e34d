"""What a script or a notebook can say wrong, and the command line cannot: refused before anything is done."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from sentence_transformers import SentenceTransformer

import ingraft
from helpers.files import snapshot
from helpers.merging import merged_once
from helpers.models import lora_config, sentence_adapter, sentence_base, train_a_little
from ingraft.errors import CheckFailed, UnusableInput


@functools.cache
def base() -> Path:
    return sentence_base("bert")


@functools.cache
def adapter() -> Path:
    return sentence_adapter(base(), lora_config("bert"))


def embed(folder: Path, **settings: Any) -> None:
    (folder / "texts.txt").write_text("one\ntwo\n")
    ingraft.embed(merged_once(adapter()), folder / "texts.txt", folder / "out.parquet", **settings)


def export(folder: Path, **settings: Any) -> None:
    ingraft.export(merged_once(adapter()), folder / "out", **settings)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda to: ingraft.merge(adapter(), to / "out", dtype="bf16"),
            "dtype is 'bf16' (nearest: bfloat16)",
        ),
        (lambda to: ingraft.merge(adapter(), to / "out", dtype=torch.float64), "dtype is 'float64'"),
        (lambda to: ingraft.merge(adapter(), to / "out", layout="Legacy"), "layout is 'Legacy' (nearest: legacy)"),
        (lambda to: ingraft.merge(adapter(), to / "out", base_precision="orignal"), "base_precision is 'orignal'"),
        (lambda to: ingraft.merge(adapter(), to / "out", workers=-1), "workers is -1"),
        (lambda to: ingraft.load_adapted(adapter(), dtype="bfloat16"), "dtype is 'bfloat16'"),
        (lambda to: embed(to, batch_size=-1), "batch_size is -1"),
        (lambda to: embed(to, window=0), "window is 0"),
        (lambda to: embed(to, backend="tf"), "backend is 'tf'"),
        (lambda to: embed(to, precision="int4"), "precision is 'int4'"),
        (lambda to: embed(to, engine="dask"), "engine is 'dask'"),
        (lambda to: export(to, to="tflite"), "to is 'tflite'"),
        (lambda to: export(to, quantize="int4", data=to / "x.csv"), "quantize is 'int4' (nearest: int8)"),
    ],
)
def test_settings_that_mean_nothing(call: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableInput) as refused:
        call(tmp_path)

    assert said in refused.value.message
    assert not (tmp_path / "out").exists()


def test_torchs_names_of_dtypes_are_known() -> None:
    plan = ingraft.plan_merge(adapter(), dtype=torch.bfloat16)  # type: ignore[arg-type]

    assert {step.dtype for step in plan.steps()} == {"BF16"}


def test_a_callback_knows_its_options_before_the_training() -> None:
    with pytest.raises(TypeError, match="overwrit"):
        ingraft.MergeCallback("merged", overwrit=True)


def test_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    result = ingraft.merge(adapter(), "~/merged")

    assert result.output == tmp_path / "merged"
    assert (tmp_path / "merged" / "ingraft.json").is_file()


def test_random_numbers_go_on_as_they_would_have() -> None:
    folder = adapter()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)

    ingraft.load_adapted(folder)

    assert torch.equal(torch.rand(3), expected)


def live_model(kind: type[SentenceTransformer]) -> Any:
    model = kind(str(base()), device="cpu")
    model.add_adapter(lora_config("bert"))
    train_a_little(model)
    return model


class Own(SentenceTransformer):  # type: ignore[misc,unused-ignore]
    """A user's class."""


def test_a_live_model_that_computes_in_half_precision_since_its_training(tmp_path: Path) -> None:
    """As accelerate leaves it after a training with `bf16=True`: its numbers are float32 all the same."""
    live = live_model(SentenceTransformer)
    live._original_forward = live.forward
    live.forward = MethodType(torch.autocast("cpu", dtype=torch.bfloat16)(live.forward.__func__), live)
    live.forward = MethodType(convert_outputs_to_fp32(live.forward.__func__), live)

    assert ingraft.merge_trained(live, tmp_path / "merged").report is not None
    assert "forward" in vars(live)  # left as it was


def test_a_live_model_that_is_another_replaces_nothing(tmp_path: Path) -> None:
    live = live_model(Own)
    output = tmp_path / "merged"
    ingraft.merge_trained(live, output)
    before = snapshot(output)

    embeddings = live[0].auto_model.get_input_embeddings().weight
    embeddings.data += 0.5 * torch.randn(embeddings.shape)
    with pytest.raises(CheckFailed, match="does not equal the live one"):
        ingraft.merge_trained(live, output, overwrite=True)

    assert snapshot(output) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "merged-adapter"]
