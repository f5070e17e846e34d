"""What a run computes in little memory: chosen by what is free, and by an estimate that measurements hold."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.models import TARGETS, config_of, lora_config, quiet, tokenizer
from ingraft.cli import show_training
from ingraft.errors import UnusableInput
from ingraft.training import TrainingConfig, memory_facts, stages, train
from ingraft.training.config import CheckpointSettings, command_line
from ingraft.training.memory import Asked, Device, Footprint, MemoryPlan, ModelShape, TextLengths, choose
from ingraft.training.memory_facts import model_shape, this_device
from ingraft.training.memory_plan import kept_plan
from ingraft.training.processes import Processes

GB = 10**9
SHAPE = ModelShape(
    layers=6, hidden=384, inner=1536, heads=12, attention=384, key_values=384, gated=False, adapted=20736,
    dropout=1.0, adapter_dropout=1.0, scores=3,
)  # fmt: skip
PAIRS = TextLengths((64, 256), cached="CachedMultipleNegativesRankingLoss")
SCORED = TextLengths((64, 256))


def need(data: TextLengths = PAIRS, rows: int = 64) -> Footprint:
    return Footprint(weights=91_000_000, trainable=330_000, shape=SHAPE, rows=rows, data=(data,))


def way(plan: MemoryPlan) -> tuple[bool, bool, int | None]:
    return plan.bf16, plan.gradient_checkpointing, plan.mini_batch_size


def cpu(free: float | None) -> Device:
    return Device("cpu", None if free is None else int(free), overhead=2.0)


def test_with_memory_to_spare_nothing_changes() -> None:
    for device in (cpu(64 * GB), Device("cuda", 64 * GB, bf16=True), cpu(None)):
        assert way(choose(device, need(), Asked())) == (False, False, None)
    assert choose(cpu(64 * GB), need(), Asked()).reason == "that fits"
    assert choose(cpu(None), need(), Asked()).reason == "how much of cpu is free is not known"


def test_the_less_there_is_the_more_is_computed_twice() -> None:
    whole = choose(cpu(64 * GB), need(), Asked()).needed
    assert 10 * GB < whole < 20 * GB
    assert way(choose(cpu(whole / 0.8 - 1), need(), Asked())) == (False, False, 32)
    eight = next(
        plan for n in range(64, 0, -1) if (plan := choose(cpu(n * GB / 4), need(), Asked())).mini_batch_size == 8
    )
    assert not eight.gradient_checkpointing
    below = choose(cpu(eight.needed / 0.8 - 1), need(), Asked())
    assert below.gradient_checkpointing
    assert below.mini_batch_size is not None
    nothing = choose(cpu(1), need(), Asked())
    assert way(nothing) == (False, True, 1)
    assert "may not fit" in nothing.reason


def test_a_loss_without_a_cached_form_is_computed_twice_at_once() -> None:
    assert way(choose(cpu(6 * GB), need(SCORED), Asked())) == (False, True, None)


def test_a_gpu_that_has_bfloat16_takes_it_first() -> None:
    whole = choose(Device("cuda", 64 * GB), need(), Asked()).needed
    less = int(whole / 0.8 * 0.9)
    assert way(choose(Device("cuda", less, bf16=True), need(), Asked())) == (True, False, None)
    assert way(choose(Device("cuda", less, bf16=False), need(), Asked())) == (False, False, 32)


def test_what_was_asked_for_stays() -> None:
    assert way(choose(cpu(1), need(), Asked(False, False, 0))) == (False, False, None)
    assert way(choose(cpu(64 * GB), need(), Asked(True, True, 4))) == (True, True, 4)
    assert choose(cpu(2 * GB), need(), Asked(gradient_checkpointing=False)).gradient_checkpointing is False
    gpu = Device("cuda", 2 * GB, bf16=True)
    assert choose(gpu, need(), Asked(bf16=False)).bf16 is False


footprints = st.builds(
    Footprint,
    weights=st.integers(0, 10 * GB),
    trainable=st.integers(0, 10**8),
    shape=st.just(SHAPE),
    rows=st.integers(1, 4096),
    data=st.lists(
        st.builds(
            TextLengths,
            st.lists(st.integers(1, 512), min_size=1, max_size=3).map(tuple),
            cached=st.sampled_from([None, "CachedMultipleNegativesRankingLoss"]),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
)
asked = st.builds(
    Asked, st.none() | st.booleans(), st.none() | st.booleans(), st.none() | st.sampled_from([0, 1, 16, 100])
)


@given(footprints, asked, st.booleans(), st.integers(0, 10**12), st.integers(0, 10**12))
def test_the_choice_follows_the_memory(wanted: Footprint, said: Asked, half: bool, one: int, other: int) -> None:
    less, more = (choose(Device("cuda", free, half), wanted, said) for free in sorted((one, other)))
    plain = choose(Device("cuda", None, half), wanted, said)
    for plan in (less, more):
        assert plan.usable is not None
        # It fits, or nothing that was thriftier could be found.
        assert plan.needed <= plan.usable or "may not fit" in plan.reason
        assert said.bf16 in (None, plan.bf16)
        assert said.gradient_checkpointing in (None, plan.gradient_checkpointing)
        assert said.mini_batch_size in (None, plan.mini_batch_size or 0)
        assert plan.bf16 <= (half or said.bf16 is True)
        size = plan.mini_batch_size
        if said.mini_batch_size is None and size is not None:
            assert size & (size - 1) == 0
            assert size < wanted.rows
            assert any(lengths.cached for lengths in wanted.data)
        if plain.needed <= plan.usable:
            assert way(plan) == way(plain)
    # Less memory never computes less twice, and embeds no more rows at a time for the same.
    assert less.gradient_checkpointing >= more.gradient_checkpointing
    if less.gradient_checkpointing == more.gradient_checkpointing and "may not fit" not in less.reason:
        assert (less.mini_batch_size or wanted.rows) <= (more.mini_batch_size or wanted.rows)
    if "may not fit" in more.reason:
        assert way(less) == way(more)


@given(footprints, st.integers(0, 10**11))
def test_no_larger_mini_batch_would_fit(wanted: Footprint, free: int) -> None:
    plan = choose(Device("cpu", free), wanted, Asked())
    if plan.mini_batch_size and "may not fit" not in plan.reason and plan.mini_batch_size * 2 < wanted.rows:
        twice = Asked(plan.bf16, plan.gradient_checkpointing, plan.mini_batch_size * 2)
        assert choose(Device("cpu", free), wanted, twice).needed > (plan.usable or 0)


@pytest.mark.parametrize("dropout", [0.1, 0.0])
@pytest.mark.parametrize("length", [12, 48])
@pytest.mark.parametrize("architecture", ["bert", "mpnet", "modernbert", "qwen2", "qwen3", "mistral"])
def test_the_estimate_is_what_torch_keeps_for_the_backward_pass(
    architecture: str, length: int, dropout: float, tmp_path: Path
) -> None:
    """Numbers that a forward pass keeps, counted: within a third of the estimate."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    wide = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4}
    transformers.AutoModel.from_config(config_of(architecture, **wide)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = SentenceTransformer(modules=[Transformer(str(tmp_path))], device="cpu")
    settings = lora_config(architecture, target_modules=list(TARGETS[architecture]), lora_dropout=dropout)
    settings.exclude_modules = ["pooler.dense"]
    with quiet():
        model.add_adapter(settings)
    model.train()
    rows = 4
    tokens = torch.randint(5, 100, (rows, length))
    kept: dict[int, tuple[int, Any]] = {}
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = (storage.nbytes(), storage)
        return tensor

    transformer: Any = model.transformers_model
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = transformer(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    assert found.last_hidden_state.requires_grad
    counted = sum(nbytes for nbytes, _ in kept.values()) / (4 * rows * length)
    estimated = model_shape(model, on_cpu=True).numbers(length)
    assert 0.75 < estimated / counted < 1.34, (estimated, counted)


@pytest.fixture
def config(tiny_model: Path, pairs_file: Path, tmp_path: Path) -> TrainingConfig:
    return TrainingConfig(
        model=str(tiny_model), data=str(pairs_file), output=tmp_path / "adapter", learning_rate=1e-2, batch_size=32
    )


def tight(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(stages, "this_device", lambda processes: Device("cpu", free, overhead=2.0))


def test_a_run_in_little_memory_learns_the_same(
    config: TrainingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = tmp_path / "without-dropout"  # which would be drawn for other rows at a time
    shutil.copytree(config.model, base)
    changed = json.loads((base / "config.json").read_text())
    changed |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (base / "config.json").write_text(json.dumps(changed))
    config = dataclasses.replace(config, model=str(base), lora=dataclasses.replace(config.lora, dropout=0.0))
    plain = train(config)
    assert way(plain.memory) == (False, False, None)
    assert plain.memory.tokens == ((5, 5),)  # three words and two special tokens
    assert plain.data.loss == "MultipleNegativesRankingLoss"
    tight(monkeypatch, int(plain.memory.needed / 0.8 * 0.7))
    events: list[Any] = []
    result = train(dataclasses.replace(config, output=tmp_path / "tight"), observe=events.append)
    assert result.memory.mini_batch_size in (8, 16)
    assert result.memory in events
    assert result.data.loss == "CachedMultipleNegativesRankingLoss"
    assert result.losses == pytest.approx(plain.losses, rel=1e-3)
    record = json.loads((tmp_path / "tight" / "ingraft_training.json").read_text())
    assert record["memory"]["mini_batch_size"] == result.memory.mini_batch_size
    assert record["memory"]["reason"] == result.memory.reason
    assert record["data"][0]["loss"] == "CachedMultipleNegativesRankingLoss"
    show_training.fact(result.memory)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"memory {result.memory.mini_batch_size} rows at a time, cached: about" in printed
    assert "may be used" in printed


def test_a_loss_that_was_named_is_kept(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tight(monkeypatch, 1)
    result = train(dataclasses.replace(config, loss="MultipleNegativesRankingLoss", max_pairs=64, holdout=0))
    assert result.data.loss == "MultipleNegativesRankingLoss"
    assert result.memory.mini_batch_size is None
    assert "may not fit" in result.memory.reason


def test_a_resumed_run_computes_as_it_began(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(config, checkpoints=CheckpointSettings(every=2), epochs=1)

    def stop(*arguments: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    tight(monkeypatch, 1)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "save_adapter", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    kept = kept_plan(tmp_path / "adapter-checkpoints")
    assert kept is not None
    assert way(kept) == (False, True, 1)
    tight(monkeypatch, 64 * GB)
    assert train(dataclasses.replace(config, resume=True)).memory == kept


@pytest.mark.parametrize("text", ["{}", '{"tokens": 1}', '{"tokens": [[3]], "of another version": 1}'])
def test_a_kept_plan_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.json").write_text(text)
    with pytest.raises(UnusableInput, match=r"memory\.json is not the memory plan of a run.*--overwrite"):
        kept_plan(tmp_path)


def test_what_a_gpu_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """(There is none where the tests run: what torch says is put in.)"""
    import sentence_transformers.util
    import torch

    monkeypatch.setattr(sentence_transformers.util, "get_device_name", lambda: "cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (device * 7 * GB, 80 * GB))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    found = this_device(Processes())
    assert (found.name, found.free, found.bf16) == ("cuda", 7 * GB, True)
    monkeypatch.setattr(sentence_transformers.util, "get_device_name", lambda: "mps")
    assert (this_device(Processes()).free, this_device(Processes()).bf16) == (None, False)


def test_processes_on_one_cpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_facts, "available_memory", lambda: 8 * GB)
    monkeypatch.setattr(memory_facts, "_least", lambda free, processes: free)
    assert this_device(Processes(count=2)).free == 4 * GB
    assert not this_device(Processes()).bf16


def test_auto_on_the_command_line() -> None:
    config = TrainingConfig("base", "data.csv", Path("out"))
    assert command_line(config) == "ingraft train --model base --data data.csv --output out"
    said = dataclasses.replace(config, bf16=True, gradient_checkpointing=False, mini_batch_size="none")
    words = command_line(said).removeprefix(command_line(config)).split()
    assert words == ["--mini-batch-size", "none", "--bf16", "--no-gradient-checkpointing"]
