"""Adapters that no merge can express, made by PEFT: refused with exit code 2, a reason, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import peft
import pytest
import transformers
from peft import PeftType

from conformance.adapters import Trained, by_peft, disturb, save_by_peft
from conformance.architectures import base
from conformance.test_merges import CASES, ROWS, TUNERS
from helpers.merging import cli
from helpers.models import new_folder, quiet
from ingraft.methods.table import METHODS, method_for

TASK = {"task_type": "CAUSAL_LM"}
SOFT = {**TASK, "num_virtual_tokens": 4}
TARGETS = ["q_proj", "v_proj"]
EMBEDDING: Mapping[str, Any] = {"target_modules": ["embed_tokens"]}


def made(config: Callable[..., Any], **options: Any) -> Callable[[], Trained]:
    return lambda: by_peft(base("qwen3-lm"), config(**options), auto="AutoModelForCausalLM")


def lora(**options: Any) -> Callable[[], Trained]:
    return made(peft.LoraConfig, target_modules=TARGETS, r=4, **options)


def said(**changes: Any) -> Callable[[], Trained]:
    """LoRA whose config says that it began in a way which needs more than this machine has, a GPU or a first run."""

    def make() -> Trained:
        trained = lora()()
        file = trained.folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return trained

    return make


def adaption_prompt() -> Trained:
    config = peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=1, **TASK)
    return by_peft(base("gpt2"), config, auto="AutoModelForCausalLM")


def x_lora() -> Trained:
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(base("qwen3-lm"), use_cache=False)
        experts = {"one": str(lora()().folder)}
        config = peft.XLoraConfig(hidden_size=32, xlora_depth=1, adapters=experts, **TASK)
        adapted: Any = peft.get_peft_model(model, config)
        disturb(adapted)
        return save_by_peft(adapted, adapted.base_model, model)


REFUSED: Mapping[str, Callable[[], Trained]] = {
    "LoRA with replicated layers": lora(layer_replication=[(0, 2), (1, 2)]),
    "aLoRA": lora(alora_invocation_tokens=[5, 6], **TASK),
    "Arrow": said(arrow_config={"top_k": 1, "router_temperature": 1.0}),
    "PiSSA by fast SVD": lora(init_lora_weights="pissa_niter_4"),
    "CorDA": said(init_lora_weights="corda", corda_config={"corda_method": "ipm"}),
    "LoRA-GA": lora(init_lora_weights="lora_ga", lora_ga_config=peft.LoraGAConfig()),
    "LoftQ": said(init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 1}),
    "PVeRA, sampled": made(peft.PveraConfig, target_modules=TARGETS, r=4, sample_at_inference=True),
    "Prompt tuning": made(peft.PromptTuningConfig, **SOFT),
    "Multitask prompt tuning": made(peft.MultitaskPromptTuningConfig, num_tasks=2, **SOFT),
    "P-tuning": made(peft.PromptEncoderConfig, encoder_hidden_size=16, **SOFT),
    "Prefix tuning": made(peft.PrefixTuningConfig, **SOFT),
    "Context-aware prompt tuning": made(
        peft.CPTConfig, cpt_token_ids=[5, 6], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 2], **TASK
    ),
    "Cartridges": made(peft.CartridgeConfig, **SOFT),
    "LLaMA-Adapter": adaption_prompt,
    "X-LoRA": x_lora,
    "Polytropon": made(peft.PolyConfig, target_modules=TARGETS, r=4, n_tasks=2, n_skills=2),
    "Lily": made(peft.LilyConfig, target_modules=TARGETS, r=4),
    "ShadowPEFT": made(peft.ShadowConfig, target_modules=TARGETS),
}


@pytest.mark.parametrize("row", REFUSED)
def test_refused_with_its_reason(row: str) -> None:
    adapter, parent = REFUSED[row]().folder, new_folder("refused")
    method = method_for(json.loads((adapter / "adapter_config.json").read_text()))
    assert (method.name, method.route) == (row, "refused")
    run = cli("merge", adapter, parent / "out")
    assert run.code == 2
    assert method.reason in " ".join(run.err.split())
    assert not [*parent.iterdir()]


@pytest.mark.parametrize(
    ("config", "name"),
    [(peft.HiraConfig(r=4, **EMBEDDING), "HiRA"), (peft.TinyLoraConfig(r=2, u=16, **EMBEDDING), "TinyLoRA")],
    ids=["HiRA", "TinyLoRA"],
)
@pytest.mark.parametrize(("architecture", "scales"), [("gemma3", True), ("qwen3", False)], ids=["scaled", "plain"])
def test_embedding_that_scales(config: Any, name: str, architecture: str, scales: bool) -> None:
    """PEFT adds to what such an embedding answers without scaling what it adds, which no weight can do."""
    adapter, parent = by_peft(base(architecture), config).folder, new_folder("refused")
    run = cli("merge", adapter, parent / "out", "--dry-run")
    assert run.code == (2 if scales else 0), run.err
    said = f"embed_tokens scales what it looks up; PEFT's {name} does not scale its part"
    assert (said in " ".join(run.err.split())) is scales
    assert not [*parent.iterdir()]


def test_every_refused_row_is_tried() -> None:
    assert set(REFUSED) == {row.name for row in METHODS if row.route == "refused"}


def test_every_type_of_the_installed_peft_is_tried() -> None:
    merged = {ROWS[TUNERS[case.tuner].row].peft_type for case in CASES}
    assert {kind.value for kind in PeftType} == merged | {ROWS[row].peft_type for row in REFUSED}
