"""QLoRA on the CPU, on layers of 64 inputs: what is trained, what is saved, what it is merged into, what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.files import snapshot
from helpers.models import copy_of, sentence_base
from ingraft.base_precision import settings
from ingraft.cli import show_training
from ingraft.cli.app import main
from ingraft.errors import UnusableInput
from ingraft.proof import verify
from ingraft.train_and_merge import train_and_merge
from ingraft.training import TrainingConfig, quantised, stages, train
from ingraft.training.config import CheckpointSettings, LoraSettings
from ingraft.training.facts import ModelFacts, Quantised
from ingraft.training.run_data import read_run_data

_WORDS = ["search", "query", "text", "model", "word", "fever", "cough", "pain"]
_OTHERS = ["chest", "acute", "chronic", "without", "left", "right", "hand", "foot"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Texts of the words that the small models know."""
    rows = random.Random(0).sample(list(itertools.permutations(_WORDS, 3)), 120)
    other = dict(zip(_WORDS, _OTHERS, strict=True))
    lines = [{"anchor": " ".join(row), "positive": " ".join(other[word] for word in row)} for row in rows]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def config(base: Path, pairs: Path, output: Path, **changes: Any) -> TrainingConfig:
    given: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 16, "epochs": 2, "lora": LoraSettings(dropout=0.0)}
    return TrainingConfig(
        model=str(base), data=str(pairs), output=output, quantize="nf4", general="none", **(given | changes)
    )


@pytest.mark.parametrize("architecture", ["modernbert", "qwen3"])
def test_it_learns_over_four_bits_and_is_merged_into_the_base_as_it_is(
    architecture: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, merge = sentence_base(architecture), tmp_path / "merged"
    before, events, moved = snapshot(base), [], []

    import bitsandbytes

    original = bitsandbytes.nn.Params4bit.to

    def watch(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.bnb_quantized:
            moved.append(arguments)
        return original(self, *arguments, **options)

    monkeypatch.setattr(bitsandbytes.nn.Params4bit, "to", watch)
    trained, merged = train_and_merge(config(base, pairs, tmp_path / "adapter", merge=merge), observe=events.append)
    # The libraries "move" the whole to where it is; nothing goes anywhere, and nothing is cast.
    assert set(moved) <= {(torch.device("cpu"), None, False)}
    assert sum(trained.losses[-4:]) < 0.8 * sum(trained.losses[:4]), trained.losses
    facts = next(event for event in events if isinstance(event, ModelFacts))
    assert facts.dtype == "nf4"
    plain = train(dataclasses.replace(config(base, pairs, tmp_path / "plain", epochs=0.3), quantize="none"))
    assert plain.model.parameters == facts.parameters
    assert plain.model.fingerprint == facts.fingerprint
    assert facts.nbytes < 0.6 * plain.model.nbytes
    said = next(event for event in events if isinstance(event, Quantised))
    assert (said.kind, said.compute, said.merged_into) == ("nf4", "float32", "original")
    assert said.layers >= 8
    show_training.fact(said)
    assert "computed in float32 · a merge takes the original weights" in " ".join(capsys.readouterr().out.split())

    # A directory like any other, of the base in full precision, without anything packed.
    saved = json.loads((trained.output / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(base.absolute())
    assert "quantization_config" not in saved
    assert not list(trained.output.rglob("model*.safetensors"))
    record = json.loads((trained.output / "ingraft_training.json").read_text())
    assert record["base"]["fingerprint"] == plain.model.fingerprint
    assert record["quantised"] == dataclasses.asdict(said)
    assert snapshot(base) == before

    # Merged into the original weights, proven against them, and said so.
    assert merged is not None
    assert merged.report is not None
    assert merged.report.passed
    assert "4-bit nf4 with double quantisation, merged into the original weights" in merged.plan.notes[0]
    assert verify(merge, trained.output).passed


def test_it_is_merged_into_what_the_training_saw_where_that_is_wanted(pairs: Path, tmp_path: Path) -> None:
    """The merged model then measures as the trained one did."""
    from sentence_transformers import SentenceTransformer

    from ingraft.training import evaluate

    wanted = config(
        sentence_base("qwen3"), pairs, tmp_path / "adapter", merge=tmp_path / "merged", base_precision="dequantized"
    )
    trained, merged = train_and_merge(wanted)
    assert merged is not None
    assert merged.report is not None
    assert merged.report.passed
    assert "assumed" not in " ".join(merged.plan.notes)
    task = read_run_data(wanted).task
    assert task is not None
    found = evaluate(SentenceTransformer(str(tmp_path / "merged"), device="cpu"), task)
    assert found == pytest.approx(dict(trained.after), abs=1e-6)


def test_the_gradient_passes_through_packed_layers_after_an_evaluation(pairs: Path, tmp_path: Path) -> None:
    """As it does through the same layers unpacked. (bitsandbytes by itself packs anew to evaluate, and stops it.)"""
    import bitsandbytes

    wanted = config(sentence_base("bert"), pairs, tmp_path / "adapter")
    model = stages.load_base(wanted, sentence_base("bert"), arguments=quantised.loading_arguments(wanted))
    quantised.prepare_quantised(model, wanted)
    transformer: Any = model.transformers_model
    model.encode(["fever and cough"])
    model.train()
    layer = next(module for module in transformer.modules() if isinstance(module, bitsandbytes.nn.Linear4bit))
    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    inputs = torch.randn(3, layer.in_features, requires_grad=True)
    layer(inputs).sum().backward()
    torch.testing.assert_close(inputs.grad, weight.sum(0).expand(3, -1), atol=1e-5, rtol=1e-5)


def test_it_goes_with_checkpointing_and_few_rows_at_a_time(pairs: Path, tmp_path: Path) -> None:
    base = sentence_base("qwen3")
    plain = train(config(base, pairs, tmp_path / "plain"))
    thrifty = train(config(base, pairs, tmp_path / "thrifty", gradient_checkpointing=True, mini_batch_size=4))
    assert thrifty.losses == pytest.approx(plain.losses, rel=1e-2)


def test_a_stopped_run_goes_on_to_the_same_adapter(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, checkpoints = sentence_base("qwen3"), CheckpointSettings(every=5)
    whole = train(config(base, pairs, tmp_path / "whole", checkpoints=checkpoints))
    stopped = config(base, pairs, tmp_path / "stopped", checkpoints=checkpoints)

    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "forget_figures", stop)
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    resumed = train(dataclasses.replace(stopped, resume=True))
    assert resumed.losses == whole.losses
    first, second = (result.output / "adapter_model.safetensors" for result in (whole, resumed))
    assert first.read_bytes() == second.read_bytes()


def test_the_card_says_what_a_merge_reads(pairs: Path, tmp_path: Path) -> None:
    from ingraft.adapter import open_adapter

    result = train(config(sentence_base("bert"), pairs, tmp_path / "adapter", epochs=0.2))
    said = settings.trained_over(open_adapter(result.output))
    assert said is not None
    assert settings.in_words(said) == "4-bit nf4 with double quantisation"
    assert said["bnb_4bit_compute_dtype"] == "float32"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"method": "pissa"}, "LoRA that begins with pissa needs the base's own weights"),
        ({"method": "ia3", "lora": LoraSettings()}, "needs the base's own weights"),
        ({"modules_to_save": ("pooler",)}, "--modules-to-save would train whole"),
        ({"model_type": "CrossEncoder"}, "is for a SentenceTransformer; this is a CrossEncoder"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_base_is_loaded(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: str
) -> None:
    monkeypatch.setattr(stages, "load_base", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(UnusableInput, match=expected):
        train(config(sentence_base("bert"), pairs, tmp_path / "adapter", **changes))
    assert not (tmp_path / "adapter").exists()


def test_without_kernels_it_is_refused_before_the_base_is_loaded(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bitsandbytes import cextension

    monkeypatch.setattr(stages, "load_base", lambda *_: pytest.fail("the base was loaded"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cextension, "lib", cextension.ErrorHandlerMockBNBNativeLibrary("no library"))
    arguments = ["train", "--model", str(sentence_base("bert")), "--data", str(pairs), "--output"]
    assert main([*arguments, str(tmp_path / "adapter"), "--quantize", "nf4"]) == 2
    assert "needs a GPU or a processor that bitsandbytes has kernels for" in capsys.readouterr().err


def test_without_bitsandbytes_the_extra_is_named(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(quantised.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnusableInput, match="bitsandbytes, which is not installed") as raised:
        train(config(sentence_base("bert"), pairs, tmp_path / "adapter"))
    assert "ingraft[train,quantized]" in raised.value.hint


def test_a_base_that_is_packed_already_is_refused(pairs: Path, tmp_path: Path) -> None:
    base = copy_of(sentence_base("bert"))
    stored = json.loads((base / "config.json").read_text())
    stored["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UnusableInput, match="is stored quantised already, with bitsandbytes"):
        train(config(base, pairs, tmp_path / "adapter"))


def test_on_a_cpu_rows_of_broken_blocks_are_refused(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    """32 inputs: half a block. The CPU kernel would take other rows' scales."""
    with pytest.raises(UnusableInput, match=r"has 32 inputs; expected a multiple of 64"):
        train(config(tiny_model, pairs, tmp_path / "adapter"))
