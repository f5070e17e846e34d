"""`ingraft train` as a person runs it: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import ingraft
from helpers.files import snapshot
from ingraft.cli.app import main
from ingraft.errors import UnusableInput
from unit.training.tiny_model import save_tiny_model, translations

SETTINGS = ("--learning-rate", "0.01", "--batch-size", "32", "--lora.dropout", "0")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text("term,title,source\n" + "".join(f"{a},{b},{n}\n" for n, (a, b) in enumerate(translations(300))))
    return path


def test_from_a_file_to_an_adapter(model: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data.write_text(data.read_text().replace("term,title", "query,document"))
    output = tmp_path / "adapter"
    arguments = ["train", "--model", str(model), "--data", str(data), "--output", str(output), *SETTINGS]
    assert main(arguments) == 0

    printed, words = capfd.readouterr()
    assert words == ""  # no library has said a word, and there is no bar where there is no terminal
    facts = {line.split()[0]: line for line in printed.splitlines() if not line.startswith(" ")}
    before = ["data", "loss", "base", "before", "adapter", "memory"]
    assert list(facts) == [*before, "train", "after", "general", "saved", "next"]
    assert "pairs.csv · 270 pairs to train on, 30 held out · query → anchor, document → positive" in facts["data"]
    assert "tiny-bert · BertModel" in facts["base"]
    assert "LoRA r=8 α=32 scale 4 · query, key, value, dense in 2 layers" in facts["adapter"]
    assert "nDCG@10" in facts["after"]
    assert f"ingraft merge {output} OUTPUT" in facts["next"]

    from sentence_transformers import SentenceTransformer

    adapted = SentenceTransformer(str(output), device="cpu").encode(["left1 left2"])
    assert abs(adapted - SentenceTransformer(str(model), device="cpu").encode(["left1 left2"])).max() > 1e-3

    # Once more into the same place: refused, and the adapter is as it was.
    weights = (output / "adapter_model.safetensors").read_bytes()
    assert main(arguments) == 2
    assert f"error: {output} is not empty." in capfd.readouterr().err
    assert (output / "adapter_model.safetensors").read_bytes() == weights


def test_json_and_columns_by_position(
    model: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "adapter"
    arguments = ["train", "--model", str(model), "--data", str(data), "--output", str(output), *SETTINGS]
    # `term` and `title` mean nothing to us, and `source` is a column of numbers: it would be taken for a score.
    data.write_text(data.read_text().replace(",source", ",id"))
    assert main([*arguments, "--max-pairs", "128", "--format", "json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["data"]["by_position"] == ["term", "title"]
    assert result["data"]["ignored"] == ["id"]
    assert result["data"]["training_rows"] + result["data"]["held_out_rows"] == 128
    assert result["adapter"]["target_modules"] == ["query", "key", "value", "dense"]
    assert result["after"]["nDCG@10"] > result["before"]["nDCG@10"]
    assert result["output"] == str(output)


def test_from_a_starter_config(model: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data.write_text(data.read_text().replace(",source", ",id"))
    config, output = tmp_path / "train.yaml", tmp_path / "adapter"
    assert main(["init", str(data), "--config", str(config), "--model", str(model)]) == 0
    assert "term → anchor, title → positive" in capfd.readouterr().out
    assert main(["init", str(data), "--config", str(config)]) == 2  # never replaced unasked
    assert f"error: {config} exists." in capfd.readouterr().err

    flags = ["--output", str(output), "--epochs", "1", "--max-pairs", "64", "--holdout", "0"]
    assert main(["train", str(config), *flags, "--lora.r", "2", "--print-config"]) == 0
    printed = capfd.readouterr().out
    assert "  r: 2\n" in printed
    assert not output.exists()
    assert main(["train", str(config), *flags, "--lora.r", "2"]) == 0
    assert (output / "ingraft_training.yaml").read_text() == printed
    assert json.loads((output / "adapter_config.json").read_text())["r"] == 2


def test_from_two_columns_to_a_proven_merged_model(
    model: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data.write_text("".join(f"{line.rpartition(',')[0]}\n" for line in data.read_text().splitlines()))
    output, merged = tmp_path / "adapter", tmp_path / "merged"
    arguments = ["--data", str(data), "--output", str(output), "--merge", str(merged), "--max-pairs", "96"]
    assert main(["train", "--model", str(model), *arguments, *SETTINGS]) == 0
    printed = capfd.readouterr().out
    assert "24 of 24 adapter tensors used" in printed
    assert f'SentenceTransformer("{merged}")' in printed
    assert main(["verify", str(merged), "--adapter", str(output)]) == 0
    capfd.readouterr()
    assert not list(merged.glob("ingraft_training.*"))  # those are the adapter's

    # The output of the merge is looked at before anything is trained.
    assert main(["train", "--model", str(model), *arguments, *SETTINGS, "--output", str(tmp_path / "again")]) == 2
    assert f"error: {merged} is not empty." in capfd.readouterr().err
    assert not (tmp_path / "again").exists()

    # Another base of the same shape is refused, unless told.
    other = save_tiny_model(tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    command = ["merge", str(output), str(tmp_path / "onto-other"), "--base", str(other)]
    assert main(command) == 2
    assert "was trained on other weights" in capfd.readouterr().err
    assert main([*command, "--other-base"]) == 0


def test_merge_callback_in_a_script_of_ones_own(model: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses

    live = SentenceTransformer(str(model), device="cpu")
    live.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["query", "value"], r=4))
    rows = translations(64)
    callback = ingraft.MergeCallback(tmp_path / "merged", adapter_dir=tmp_path / "adapter")
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), per_device_train_batch_size=16, learning_rate=0.01, num_train_epochs=1,
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip

    def train(callback: ingraft.MergeCallback) -> None:
        SentenceTransformerTrainer(
            model=live,
            args=arguments,
            train_dataset=Dataset.from_dict({"anchor": [a for a, _ in rows], "positive": [b for _, b in rows]}),
            loss=losses.MultipleNegativesRankingLoss(live),
            callbacks=[callback],
        ).train()

    train(callback)
    assert callback.result is not None
    assert callback.result.report is not None
    assert callback.result.report.passed
    merged = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    answer = live.encode(["left1 left2"])
    assert abs(merged.encode(["left1 left2"]) - answer).max() < 1e-5

    # What is in use is refused before the training, not after it.
    with pytest.raises(UnusableInput, match="merged is not empty"):
        train(ingraft.MergeCallback(tmp_path / "merged", adapter_dir=tmp_path / "another"))
    assert (live.encode(["left1 left2"]) == answer).all()


@pytest.mark.parametrize("named", [False, True])
def test_the_base_is_never_replaced_by_its_own_adapter(tmp_path: Path, named: bool) -> None:
    from peft import LoraConfig
    from sentence_transformers import SentenceTransformer

    base = save_tiny_model(tmp_path / "base")
    live = SentenceTransformer(str(base), device="cpu")
    live.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["query"], r=4))
    if named:  # the model itself no longer says where it is from
        live.transformers_model.name_or_path = ""
    before = snapshot(tmp_path)
    for output, adapter in ((tmp_path / "out", base), (base, tmp_path / "out"), (tmp_path / "out", tmp_path / "out/a")):
        with pytest.raises(UnusableInput, match="is, holds or lies in"):
            ingraft.merge_trained(live, output, adapter_dir=adapter, base=base if named else None, overwrite=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--data": "missing.csv"}, "missing.csv does not exist"),
        ({"--model": "./missing"}, "missing does not exist"),
        ({"--lora.r": "0"}, "--lora.r is 0; expected 1 or more, or auto."),
        ({"--target-modules": "q_proj"}, "BertModel has no layer called q_proj"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(
    model: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, str], message: str
) -> None:
    flags = {"--model": str(model), "--data": str(data), "--output": str(tmp_path / "adapter")} | change
    assert main(["train", *(part for flag in flags.items() for part in flag)]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert message in error.splitlines()[0]
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]
