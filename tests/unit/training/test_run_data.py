"""What is known of the data before a model is loaded, and what a run makes of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ingraft.errors import UnusableInput
from ingraft.training import train
from ingraft.training.config import DatasetSettings, MiningSettings, PromptSettings, TrainingConfig
from ingraft.training.facts import Mined
from ingraft.training.run_data import read_run_data
from ingraft.training.tasks import LabelTask, RetrievalTask
from unit.training.tiny_model import translations


def csv(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_test_file_is_measured_and_near_duplicates_in_it_are_named(config: TrainingConfig, tmp_path: Path) -> None:
    data = csv(tmp_path / "train.csv", "query,document", "where is the nearest station,a", "how are you,b", "who,c")
    test = csv(tmp_path / "test.csv", "query,document", "what is this,d", "Where is the nearest station?,e")
    prepared = read_run_data(dataclasses.replace(config, data=data, test=test))
    assert isinstance(prepared.task, RetrievalTask)
    assert sorted(prepared.task.corpus.values()) == list("abcde")
    assert sorted(prepared.task.queries.values()) == ["Where is the nearest station?", "what is this"]
    [facts] = prepared.facts
    assert (facts.training_rows, facts.held_out_rows, facts.measured_on) == (3, 0, "2 rows of test.csv")
    assert facts.near_duplicates == ("line 3 resembles line 2, which is trained on (100 %)",)

    other = csv(tmp_path / "scores.csv", "sentence1,sentence2,score", "a,b,0.5", "c,d,1")
    with pytest.raises(UnusableInput, match=r"scores.csv holds scored pairs, .*train.csv holds pairs"):
        read_run_data(dataclasses.replace(config, data=data, test=other))


def test_a_beir_directory_brings_its_own_test(config: TrainingConfig, tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    pairs = translations(60)
    for name, column in (("queries", 0), ("corpus", 1)):
        lines = [json.dumps({"_id": str(n), "text": pair[column]}) for n, pair in enumerate(pairs)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    for split, numbers in (("train", range(40)), ("test", range(40, 60))):
        lines = [f"{n}\t{n}\t1" for n in numbers]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    result = train(dataclasses.replace(config, data=str(folder), batch_size=8))
    assert (result.data.training_rows, result.data.measured_on) == (40, "the split test of beir")
    assert set(result.after) == {"nDCG@10", "accuracy@1"}
    record = json.loads((config.output / "ingraft_training.json").read_text())
    assert list(record["files"]) == [str(folder)]


def test_several_data_sets_with_losses_of_their_own(config: TrainingConfig, tmp_path: Path) -> None:
    pairs = translations(100, seed=1)
    scores = csv(tmp_path / "s.csv", "a,b,n", *(f"{a},{b},{n % 3}" for n, (a, b) in enumerate(pairs)))
    classes = csv(tmp_path / "c.csv", "text,label", *(f"{a},{n % 4}" for n, (a, _) in enumerate(pairs)))
    more = (
        DatasetSettings(scores, columns={"sentence1": "a", "sentence2": "b", "score": "n"}, loss="AnglELoss"),
        DatasetSettings(classes, max_pairs=64),
    )
    result = train(dataclasses.replace(config, max_pairs=64, more_data=more))
    assert [facts.loss for facts in (result.data, *result.more_data)] == [
        "MultipleNegativesRankingLoss", "AnglELoss", "BatchAllTripletLoss",
    ]  # fmt: skip
    rows = [facts.training_rows for facts in (result.data, *result.more_data)]
    assert rows[1:] == [100, 64]
    assert result.steps == sum(-(-count // 32) for count in rows)
    with pytest.raises(UnusableInput, match="AnglELoss does not fit pairs"):
        read_run_data(dataclasses.replace(config, more_data=(DatasetSettings(config.data, loss="AnglELoss"),)))


def test_labels_are_measured_by_average_precision(config: TrainingConfig, tmp_path: Path) -> None:
    rows = translations(150)
    lines = [f"{a},{b if n % 2 else rows[n - 1][1]},{n % 2}" for n, (a, b) in enumerate(rows)]
    data = csv(tmp_path / "labels.csv", "text1,text2,label", *lines)
    prepared = read_run_data(dataclasses.replace(config, data=data))
    assert isinstance(prepared.task, LabelTask)
    result = train(dataclasses.replace(config, data=data, epochs=3))
    assert result.after["AP"] > result.before["AP"]


def test_classes_are_measured_by_what_is_found_beside_a_text(config: TrainingConfig, tmp_path: Path) -> None:
    texts = sorted({a for a, _ in translations(300)})
    classes = {"left1", "left2", "left3"}  # does a text have one of these words?
    data = csv(tmp_path / "c.csv", "text,label", *(f"{text},{bool(classes & set(text.split()))}" for text in texts))
    result = train(dataclasses.replace(config, data=data, epochs=4))
    assert result.data.loss == "BatchAllTripletLoss"
    assert result.after["nDCG@10"] > result.before["nDCG@10"]


def test_hard_negatives_are_mined_with_the_base_model(
    config: TrainingConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[Any] = []
    mining = MiningSettings(negatives=2, range_max=20, relative_margin=0)
    result = train(dataclasses.replace(config, max_pairs=100, mining=mining), observe=events.append)
    [found] = [event for event in events if isinstance(event, Mined)]
    assert found.note.startswith("2 hard negatives mined for each row")
    assert 2 <= found.rows <= result.data.training_rows
    assert result.after["nDCG@10"] > result.before["nDCG@10"]
    assert capfd.readouterr() == ("", "")  # the libraries' bars neither


def test_what_cannot_be_mined(config: TrainingConfig, tmp_path: Path) -> None:
    scores = csv(tmp_path / "s.csv", "sentence1,sentence2,score", "a,b,0", "c,d,1")
    with pytest.raises(UnusableInput, match=r"needs pairs without negatives; .*s.csv holds scored pairs"):
        read_run_data(dataclasses.replace(config, data=scores, mining=MiningSettings(negatives=1)))
    wanted = MiningSettings(negatives=5, range_max=300)
    few = dataclasses.replace(config, max_pairs=4, holdout=0, mining=wanted)
    with pytest.raises(UnusableInput, match="hard negatives"):
        train(few)
    assert not config.output.exists()


def test_prompts_are_trained_with_and_saved(config: TrainingConfig) -> None:
    prompts = PromptSettings(query="left1 ", document="right1 ")
    result = train(dataclasses.replace(config, max_pairs=64, holdout=0, prompts=prompts))
    assert result.adapter.prompts == {"anchor": "left1 ", "positive": "right1 "}
    saved = json.loads((config.output / "config_sentence_transformers.json").read_text())["prompts"]
    assert saved == {"query": "left1 ", "document": "right1 "}


def test_what_should_not_be_forgotten_can_be_named_or_left_out(config: TrainingConfig, tmp_path: Path) -> None:
    scores = csv(tmp_path / "s.csv", "sentence1,sentence2,score", "left1,right1,1", "left2,left3,0", "left4,right4,0.9")
    result = train(dataclasses.replace(config, max_pairs=64, general=scores))
    assert set(result.general_after) == {"Spearman"}
    assert scores in json.loads((config.output / "ingraft_training.json").read_text())["files"]
    assert read_run_data(dataclasses.replace(config, general="none")).general is None
    with pytest.raises(UnusableInput, match=r"holds pairs; expected pairs of texts with a score"):
        read_run_data(dataclasses.replace(config, general=config.data))
