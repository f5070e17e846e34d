"""Patterns of a config that take for ever are found before anything waits for them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from helpers.handmade import QUERY, bert_shapes, lora_tensors, write_adapter, write_base
from ingraft.adapter import check_patterns, open_adapter, patterns
from ingraft.completeness import is_targeted
from ingraft.errors import UnusableInput
from ingraft.inspection import inspect
from ingraft.methods.settings import pattern_value
from ingraft.plan import plan_merge

ENDLESS = "(([a-z0-9_]+[.]?)+)+x!"


def adapter_with(tmp_path: Path, **config: Any) -> Path:
    return write_adapter(tmp_path / "adapter", write_base(tmp_path / "base"), **config)


@pytest.mark.parametrize(
    "config",
    [
        {"rank_pattern": {ENDLESS: 4}},
        {"alpha_pattern": {"query": 4, ENDLESS: 4}},
        {"target_modules": ENDLESS},
        {"exclude_modules": ENDLESS},
        {"modules_to_save": [ENDLESS]},
        {"layers_to_transform": [0], "layers_pattern": [ENDLESS]},
        {"peft_type": "OSF", "rank_pattern": {ENDLESS: 4}},
        {"rank_pattern": {f"{'.*' * 12}!": 4}},
    ],
    ids=lambda config: f"{config.get('peft_type', '')} {list(config)[-1]}".strip(),
)
def test_endless_patterns(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 2.0)
    adapter = adapter_with(tmp_path, **config)
    begun = time.monotonic()

    with pytest.raises(UnusableInput, match=r"adapter_config.json: matching .* takes too long"):
        check_patterns(open_adapter(adapter), [QUERY])

    assert time.monotonic() - begun < 30


def test_merge_and_inspect_ask_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 2.0)
    adapter = adapter_with(tmp_path, alpha_pattern={ENDLESS: 4})

    with pytest.raises(UnusableInput, match="takes too long"):
        plan_merge(adapter, tmp_path / "base")
    with pytest.raises(UnusableInput, match="takes too long"):
        inspect(adapter)


def test_modules_that_the_adapter_lacks_are_tried_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pattern is quick on layer 0, which is adapted, and endless on layer 1, which is looked up beside it."""
    monkeypatch.setattr(patterns, "SECONDS", 2.0)
    tensors = lora_tensors([QUERY], bert_shapes(), rank=4)
    rule = rf"encoder\.layer\.(0.*query|1[.]{ENDLESS})"
    folder = write_adapter(tmp_path / "adapter", write_base(tmp_path / "base"), tensors=tensors, target_modules=rule)

    with pytest.raises(UnusableInput, match="takes too long"):
        plan_merge(folder, tmp_path / "base")


@pytest.mark.parametrize("broken", ["(", "a**", "(" * 5000, "(?P<a>x)(?P<a>y)"], ids=["open", "twice", "deep", "name"])
def test_what_is_no_pattern(broken: str, tmp_path: Path) -> None:
    adapter = adapter_with(tmp_path, rank_pattern={broken: 4})

    with pytest.raises(UnusableInput, match=r"adapter_config.json: .* is no regular expression: "):
        check_patterns(open_adapter(adapter), [QUERY])


# What people and libraries write, on names of a large model.
PATTERNS = (
    r".*\.(q|v)_proj", r"^(?!.*vision).*(?:q_proj|k_proj)$", r"model\.layers\.(?:[0-9]|1[0-9])\..*", "self.query",
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|ffn|dense).*?(?:k_proj|v_proj|q_proj|up_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp)\.(?:(?:k_proj|v_proj|q_proj|out_proj)))",
)  # fmt: skip
NAMES = [f"model.layers.{n}.{part}" for n in range(60) for part in ("self_attn.q_proj", "mlp.up_proj", "norm")]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_that_people_write(pattern: str, tmp_path: Path) -> None:
    adapter = open_adapter(adapter_with(tmp_path, target_modules=pattern, alpha_pattern={pattern: 3}))

    check_patterns(adapter, NAMES)

    assert {is_targeted(adapter.config.raw, name) for name in NAMES} >= {False}
    assert {pattern_value(adapter.config.raw, "alpha_pattern", name, 8) for name in NAMES} <= {3, 8}
