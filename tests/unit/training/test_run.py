"""A training run as a whole: what it learns, what it saves, and what it leaves when it fails."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ingraft.errors import CheckFailed, UnusableInput
from ingraft.train_and_merge import train_and_merge
from ingraft.training import TrainingConfig, evaluate, stages, train
from ingraft.training.config import LoraSettings
from ingraft.training.config_file import resolve
from ingraft.training.facts import AdapterFacts, Chosen, DataFacts, Evaluated, Evaluating, ModelFacts, Step
from ingraft.training.memory import MemoryPlan
from ingraft.training.run_data import read_run_data
from unit.training.tiny_model import save_tiny_model, save_tiny_transformer, translations


def load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def test_it_learns_and_saves_what_it_learnt(config: TrainingConfig) -> None:
    events: list[Any] = []
    result = train(config, observe=events.append)

    assert result.after["nDCG@10"] > result.before["nDCG@10"] + 0.1
    part = len(result.losses) // 5
    assert sum(result.losses[-part:]) < sum(result.losses[:part])
    order = [type(event) for event in events if not isinstance(event, Step)]
    measured = [Evaluating, Evaluated, Evaluating, Evaluated]  # on the task and in general
    assert order == [DataFacts, ModelFacts, Chosen, *measured, AdapterFacts, MemoryPlan, *measured]
    assert set(result.general_before) == set(result.general_after) == {"Spearman"}
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.done for step in steps] == list(range(result.steps + 1))
    assert {step.total for step in steps} == {result.steps}
    assert result.data.training_rows + result.data.held_out_rows == 300
    json.dumps(result.to_dict(), default=str)

    # What was measured live is what the directory gives.
    task = read_run_data(config).task
    assert task is not None
    assert evaluate(load(config.output), task) == pytest.approx(dict(result.after))


def test_the_directory_is_complete_and_private(config: TrainingConfig) -> None:
    from safetensors import safe_open

    result = train(dataclasses.replace(config, max_pairs=64))
    files = {path.relative_to(config.output).as_posix() for path in config.output.rglob("*") if path.is_file()}
    assert {"adapter_config.json", "adapter_model.safetensors", "modules.json", "1_Pooling/config.json"} < files
    assert {"tokenizer.json", "config_sentence_transformers.json", "README.md"} < files
    assert not any(name.startswith(("model.safetensors", "checkpoint", "training_args")) for name in files)

    saved = json.loads((config.output / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(Path(config.model).absolute())
    assert saved["target_modules"] == ["dense", "key", "query", "value"]
    assert (saved["r"], saved["lora_alpha"], saved["peft_type"]) == (8, 32, "LORA")
    with safe_open(config.output / "adapter_model.safetensors", "pt") as weights:
        names = list(weights.keys())
        assert len(names) == 2 * len(result.adapter.modules) == 24
        assert not any("pooler" in name for name in names)
        assert all(weights.get_tensor(name).any() for name in names)

    # Settings that the command takes again, and what else it would take to repeat the run.
    settled = dataclasses.replace(config, max_pairs=64, lora=LoraSettings(r=8, alpha=32, dropout=0.0))
    assert resolve(config.output / "ingraft_training.yaml", {}) == settled
    record = json.loads((config.output / "ingraft_training.json").read_text())
    assert record["files"] == {config.data: hashlib.sha256(Path(config.data).read_bytes()).hexdigest()}
    assert record["versions"]["peft"] == version("peft")
    assert record["seed"] == 0
    assert record["course"]["losses"] == list(result.losses)
    assert record["after"] == result.after

    card = (config.output / "README.md").read_text()
    assert not any(first in card or second in card for first, second in translations(300))
    new_file = config.output / "new"
    new_file.touch()
    modes = {path.stat().st_mode for path in config.output.rglob("*") if path.is_file()}
    assert modes == {new_file.stat().st_mode}


def test_the_same_seed_gives_the_same_adapter(config: TrainingConfig, tmp_path: Path) -> None:
    small = dataclasses.replace(config, max_pairs=64, holdout=0, lora=LoraSettings(dropout=0.1))
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        output = tmp_path / str(number)
        train(dataclasses.replace(small, output=output, seed=seed))
        weights.append((output / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_scored_pairs(config: TrainingConfig, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    rows = translations(200)
    lines = [f"{a},{b},1\n{a},{c},0\n" for (a, b), (_, c) in pairwise(rows)]
    path.write_text("sentence1,sentence2,score\n" + "".join(lines))
    result = train(dataclasses.replace(config, data=str(path), epochs=2))
    assert result.data.loss == "CoSENTLoss"
    assert result.after["Spearman"] > result.before["Spearman"] + 0.1


def test_a_dense_module_is_trained_and_saved(config: TrainingConfig, tmp_path: Path) -> None:
    import torch

    base = save_tiny_model(tmp_path / "with-dense", dense=True)
    result = train(dataclasses.replace(config, model=str(base), max_pairs=64, holdout=0))
    assert result.adapter.also_trained == ("2 Dense",)
    before, after = (load(folder)[2].linear.weight for folder in (base, config.output))
    assert not torch.equal(before, after)


def test_a_plain_transformer_in_bfloat16(config: TrainingConfig, tmp_path: Path) -> None:
    import torch
    from transformers import BertModel

    save_tiny_transformer(tmp_path / "plain")
    BertModel.from_pretrained(tmp_path / "plain", dtype=torch.bfloat16).save_pretrained(tmp_path / "plain")
    result = train(dataclasses.replace(config, model=str(tmp_path / "plain"), max_pairs=64))
    assert result.model.dtype == "bfloat16"
    assert {tensor.dtype for tensor in load_file(config.output / "adapter_model.safetensors").values()} == {
        torch.float32
    }
    assert (config.output / "1_Pooling" / "config.json").is_file()


def test_less_memory(config: TrainingConfig) -> None:
    result = train(dataclasses.replace(config, epochs=2, bf16=True, gradient_checkpointing=True))
    assert result.after["nDCG@10"] > result.before["nDCG@10"]
    saved = load_file(config.output / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in saved.values()} == {"torch.float32"}


def test_the_models_prompts_go_before_its_texts(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformerTrainer

    prompts = {"query": "left1 ", "document": "right1 "}
    base = save_tiny_model(tmp_path / "with-prompts", prompts=prompts)
    seen = {}
    original = SentenceTransformerTrainer.__init__

    def spy(self: Any, *arguments: Any, **options: Any) -> None:
        seen.update(options["args"].prompts)
        original(self, *arguments, **options)

    monkeypatch.setattr(SentenceTransformerTrainer, "__init__", spy)
    result = train(dataclasses.replace(config, model=str(base), max_pairs=64))
    assert seen == {"anchor": "left1 ", "positive": "right1 "}
    assert result.adapter.prompts == seen


def nothing_left(folder: Path, *expected: str) -> bool:
    """Not even a hidden directory."""
    return sorted(path.name for path in folder.iterdir()) == sorted(expected)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, CheckFailed("the training diverged")])
def test_a_run_that_ends_early_leaves_nothing(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any
) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise failure

    monkeypatch.setattr(stages, "fit", fail)
    with pytest.raises((KeyboardInterrupt, CheckFailed)):
        train(config)
    assert nothing_left(tmp_path)


def test_too_little_memory_is_told_in_words(config: TrainingConfig, tmp_path: Path) -> None:
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    def allocate(*_: Any) -> None:
        torch.empty(1 << 60)  # as a batch that is far too large

    hook: Any = None

    def observe(event: Any) -> None:
        nonlocal hook
        if isinstance(event, Step) and hook is None:
            hook = register_module_forward_pre_hook(allocate)

    try:
        with pytest.raises(UnusableInput, match="Not enough memory for batches of 32 rows"):
            train(config, observe=observe)
    finally:
        hook.remove()
    assert nothing_left(tmp_path)


def test_a_diverging_run_is_refused(config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    original = MultipleNegativesRankingLoss.forward
    monkeypatch.setattr(MultipleNegativesRankingLoss, "forward", lambda *a, **k: original(*a, **k) * torch.inf)
    with pytest.raises(CheckFailed, match=r"diverged: .*lora_.* holds NaN or infinity") as error:
        train(config)
    assert "0.01" in error.value.hint
    assert nothing_left(tmp_path)


def test_a_run_that_learns_nothing_is_refused(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    original = MultipleNegativesRankingLoss.forward
    monkeypatch.setattr(MultipleNegativesRankingLoss, "forward", lambda *a, **k: original(*a, **k) * 0)
    with pytest.raises(CheckFailed, match="changed nothing"):
        train(config)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(("there", "lacks"), [("notes.txt", "model"), ("config.json", "adapter")])
def test_an_output_in_use_is_refused(config: TrainingConfig, there: str, lacks: str) -> None:
    config.output.mkdir()
    (config.output / there).write_text("mine")
    with pytest.raises(UnusableInput, match="is not empty"):
        train(config)
    with pytest.raises(UnusableInput, match=f"holds no {lacks}, so it is not replaced"):
        train(dataclasses.replace(config, overwrite=True))
    assert nothing_left(config.output, there)


def test_an_older_adapter_is_replaced_whole(config: TrainingConfig) -> None:
    config.output.mkdir()
    for name in ("adapter_config.json", "stale.bin"):
        (config.output / name).write_text("{}")
    train(dataclasses.replace(config, overwrite=True, max_pairs=64, holdout=0))
    assert not (config.output / "stale.bin").exists()
    assert (config.output / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("place", ["data", "model"])
def test_inputs_are_never_replaced(config: TrainingConfig, place: str) -> None:
    holds_input = Path(config.data).parent if place == "data" else Path(config.model)
    with pytest.raises(UnusableInput, match="is, holds or lies in"):
        train(dataclasses.replace(config, output=holds_input, overwrite=True))
    assert Path(config.data).is_file()


@pytest.mark.parametrize("place", ["data", "general", "model", "output", "checkpoints", "logs", "notes"])
def test_a_merge_replaces_nothing_but_an_earlier_merge(config: TrainingConfig, tmp_path: Path, place: str) -> None:
    """Said before the training: after it, hours would be lost."""
    for folder in ("rows", "notes"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "scores.csv").write_text("sentence1,sentence2,score\na,b,0\nc,d,1\n")
    config = dataclasses.replace(config, general=str(tmp_path / "rows" / "scores.csv"))
    merge = {
        "data": Path(config.data).parent,
        "general": tmp_path / "rows",
        "model": Path(config.model),
        "output": config.output / "merged",
        "checkpoints": tmp_path / "adapter-checkpoints",
        "logs": tmp_path / "adapter-logs",
        "notes": tmp_path / "notes",
    }[place]
    message = "holds no model, so it is not replaced" if place == "notes" else "is, holds or lies in .*, which is read"
    events: list[Any] = []
    with pytest.raises(UnusableInput, match=message):
        train_and_merge(dataclasses.replace(config, merge=merge, overwrite=True), observe=events.append)
    assert events == []
    assert nothing_left(tmp_path, "notes", "rows")
    assert Path(config.data).is_file()


def test_an_adapter_is_no_base(config: TrainingConfig, tmp_path: Path) -> None:
    adapter = tmp_path / "an-adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(UnusableInput, match="holds an adapter, expected a base model") as error:
        train(dataclasses.replace(config, model=str(adapter)))
    assert f"ingraft merge {adapter}" in error.value.hint


def test_a_model_that_cannot_be_loaded(config: TrainingConfig, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UnusableInput, match=r"broken holds no model\.safetensors"):
        train(dataclasses.replace(config, model=str(broken)))
    shutil.copyfile(Path(config.model) / "model.safetensors", broken / "model.safetensors")  # and no tokenizer
    with pytest.raises(UnusableInput, match=r"broken cannot be loaded as a base model: \S"):
        train(dataclasses.replace(config, model=str(broken)))
    with pytest.raises(UnusableInput, match=r"broken cannot be loaded as a base model: \S"):
        train(dataclasses.replace(config, model=str(broken), lora=LoraSettings(8, 32)))
    assert nothing_left(tmp_path, "broken")


def test_a_model_without_a_transformer(config: TrainingConfig, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(config.model) / "tokenizer.json"))
    static = tmp_path / "static"
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)]).save_pretrained(str(static))
    with pytest.raises(UnusableInput, match="has the modules StaticEmbedding; expected a Transformer"):
        train(dataclasses.replace(config, model=str(static)))


def test_an_unknown_target_is_refused_in_words(config: TrainingConfig, tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="has no layer called q_proj"):
        train(dataclasses.replace(config, target_modules="q_proj"))
    assert nothing_left(tmp_path)
