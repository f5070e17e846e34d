"""The model card: what the Hub is told, what people read, and what stays of a card that was there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from helpers.handmade import write_adapter, write_base
from helpers.merging import cli, merged
from ingraft.card import BEGIN, END, hub_id, write_card
from ingraft.plan import plan_merge
from ingraft.steps import MergePlan

CARD = """---
license: mit
tags:
- legal
- peft
- base_model:adapter:/home/me/base
base_model: /home/me/base
language: de
---
# My model

Trained on /somewhere/else with love: ---
"""


def parts(folder: Path, base_card: str = "", adapter_card: str = "", *, st: bool = True) -> MergePlan:
    base = write_base(folder / "base", sentence_transformers=st)
    adapter = write_adapter(folder / "adapter", base)
    for place, card in ((base, base_card), (adapter, adapter_card)):
        if card:
            (place / "README.md").write_text(card, encoding="utf-8")
    return plan_merge(adapter)


def card_of(output: Path) -> tuple[dict[str, Any], str]:
    text = (output / "README.md").read_text(encoding="utf-8")
    front = text.split("---\n")[1]
    return yaml.safe_load(front), text


def test_a_model_without_a_card_gets_one(tmp_path: Path) -> None:
    plan = parts(tmp_path)

    metadata, text = card_of(merged(plan.adapter.root))

    assert metadata == {
        "pipeline_tag": "sentence-similarity",
        "library_name": "sentence-transformers",
        "tags": ["sentence-transformers", "merge", "ingraft"],
    }
    assert "# base with adapter\n" in text
    assert "| adapter | adapter · LoRA · r=4 · α=8 |" in text
    assert "4 edited in float32" in text
    assert "5 of 5 checks passed before publishing: structure, " in text
    assert 'SentenceTransformer("path/or/id")' in text
    assert str(tmp_path) not in text


def test_a_card_is_extended_and_keeps_its_words(tmp_path: Path) -> None:
    plan = parts(tmp_path, CARD)

    metadata, text = card_of(merged(plan.adapter.root))

    assert metadata["license"] == "mit"
    assert metadata["language"] == "de"
    assert metadata["tags"] == ["legal", "sentence-transformers", "merge", "ingraft"]
    assert "base_model" not in metadata
    assert "# My model\n\nTrained on /somewhere/else with love: ---\n\n" + BEGIN in text


def test_the_section_is_written_once(tmp_path: Path) -> None:
    plan = parts(tmp_path, CARD)
    output = merged(plan.adapter.root)
    (output / "README.md").write_text(card_of(output)[1] + "\nThe owner's last word.\n")

    write_card(plan, output, None)
    write_card(plan, output, None)

    _, text = card_of(output)
    assert text.count(BEGIN) == text.count(END) == 1
    assert "The owner's last word." in text
    assert "| proof | switched off |" in text


def test_paths_of_the_machine_are_taken_out(tmp_path: Path) -> None:
    folder = tmp_path / "me"
    plan = parts(folder, f"---\ntags: x\n---\nFinetuned from [{folder}/base](https://huggingface.co/{folder}/base).\n")

    _, text = card_of(merged(plan.adapter.root))

    assert str(tmp_path) not in text
    assert "Finetuned from [base]" in text


@pytest.mark.parametrize(
    "front",
    ["a: [\n", "- a list\n", "a: &a [*a]\n", f"a: {'[' * 5000}\n", "a: 1\na: 2\n", "{a: b}\n", "a: \a\n", "words\n"],
)
def test_metadata_that_cannot_be_read_stay_as_they_are(front: str, tmp_path: Path) -> None:
    plan = parts(tmp_path, f"---\n{front}---\n# Mine\n", f"---\n{front}---\n")

    text = (merged(plan.adapter.root) / "README.md").read_text()

    assert text.startswith(f"---\n{front}---\n# Mine\n")
    assert BEGIN in text


def test_metadata_that_are_not_ours_stay_to_the_letter(tmp_path: Path) -> None:
    """Readers of cards differ in what they take `no` and `1.10` for."""
    front = "# mine\nlanguage: no\nlicense: no\nversion: 1.10 # not 1.1\nwhen: 2020-13-45\nsize: 1e3\nid: !!int x\n"
    plan = parts(tmp_path, f"\ufeff---\n{front}datasets: [a/b]\ntags: [{{a: b}}, 1.10, [c]]\n---\n")

    text = (merged(plan.adapter.root) / "README.md").read_text("utf-8")

    own = "- '1.10'\n- sentence-transformers\n- merge\n- ingraft\n"
    assert text.startswith(f"---\n{front}datasets: [a/b]\ntags:\n{own}pipeline_tag: sentence-similarity\n")


def licence(tmp_path: Path, base: str, adapter: str) -> dict[str, Any]:
    cards = [f"---\nlicense: {name}\n---\n" if name else "" for name in (base, adapter)]
    metadata, _ = card_of(merged(parts(tmp_path, *cards).adapter.root))
    return {key: value for key, value in metadata.items() if key.startswith("license")}


@pytest.mark.parametrize(
    ("base", "adapter", "expected"),
    [
        ("mit", "", {"license": "mit"}),
        ("", "apache-2.0", {"license": "apache-2.0"}),
        ("mit", "mit", {"license": "mit"}),
        ("mit", "apache-2.0", {"license": "other", "license_name": "mit and apache-2.0"}),
        ("[mit]", "", {"license": ["mit"]}),  # no name of a licence: stays as it is
        ("~", "mit", {"license": "mit"}),
        ("", "", {}),
    ],
)
def test_licences_are_carried_over(base: str, adapter: str, expected: dict[str, str], tmp_path: Path) -> None:
    assert licence(tmp_path, base, adapter) == expected


def test_a_base_of_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ingraft.base_model

    base = write_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", "someone/a-model")
    monkeypatch.setattr(ingraft.base_model, "local_directory", lambda name, **_: base)

    metadata, text = card_of(merged(adapter))

    assert (metadata["base_model"], metadata["base_model_relation"]) == ("someone/a-model", "merge")
    assert ModelCard(text).data.to_dict() == metadata  # as the Hub's own tools read it
    assert metadata["library_name"] == "transformers"
    assert "| base | [someone/a-model](https://huggingface.co/someone/a-model) · " in text
    assert 'AutoModel.from_pretrained("path/or/id")' in text


def test_ids_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    ids = {name: hub_id(name) for name in ("a/b", "bert-base", "here", "./a/b", "/a/b", "a/b/c", "../b", "~/b")}
    assert {name for name, found in ids.items() if found} == {"a/b", "bert-base"}


def test_a_card_changed_later_is_no_tampering(tmp_path: Path) -> None:
    output = merged(parts(tmp_path).adapter.root)
    (output / "README.md").unlink()

    assert cli("verify", output).code == 0
