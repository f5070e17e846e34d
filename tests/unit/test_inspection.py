"""What a directory holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.files import edit_json
from helpers.handmade import (
    HIDDEN,
    QUERY,
    attention_modules,
    bert_shapes,
    change_tensors,
    write_adapter,
    write_base,
    write_modules,
)
from helpers.merging import cli
from ingraft.errors import UnusableInput
from ingraft.inspection import AdapterInspection, ModelInspection, inspect


def adapter_at(path: Path) -> AdapterInspection:
    found = inspect(path)
    assert isinstance(found, AdapterInspection)
    return found


def test_adapter(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    found = adapter_at(write_adapter(tmp_path / "adapter", base, revision="abc"))

    assert (found.method, found.route) == ("LoRA", "streamed")
    assert found.modules == tuple(attention_modules())
    assert found.targets == ("query", "value")
    assert (found.tensors, found.parameters, found.dtype) == (8, 4 * 2 * 4 * 16, "F32")
    assert found.nbytes == 4 * found.parameters
    assert (found.base, found.revision, found.base_found) == (str(base), "abc", True)
    assert found.base_parameters == sum(torch.Size(shape).numel() for shape in bert_shapes().values())
    assert found.base_nbytes == 4 * found.base_parameters
    assert {"lora_alpha": 8, "r": 4}.items() <= found.settings.items()


def test_a_base_that_was_named_must_be_there(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", tmp_path / "gone")

    assert not adapter_at(adapter).base_found
    with pytest.raises(UnusableInput, match="other does not exist"):
        inspect(adapter, tmp_path / "other")


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"alpha_pattern": {"value": 3}}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms(config: dict[str, object], dtype: torch.dtype, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", None, **config)  # type: ignore[arg-type]
    file = adapter / "adapter_model.safetensors"
    change_tensors(file, {name: value.to(dtype) for name, value in load_file(file).items()})
    tensors = load_file(file)

    norms = adapter_at(adapter).norms

    assert list(norms) == attention_modules()
    for module, norm in norms.items():
        a, b = (tensors[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "AB")
        alpha = 3 if config.get("alpha_pattern") and "value" in module else 8
        scale = alpha / (2 if config.get("use_rslora") else 4)
        assert norm == pytest.approx(scale * float((b @ a).norm()), rel=1e-4)


@pytest.mark.parametrize("shape", [(HIDDEN, 1, HIDDEN), (0, HIDDEN), (3, HIDDEN)], ids=str)
def test_no_norm_of_factors_that_do_not_fit(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Whether they fit is a merge's business; what is told here must not fall over them."""
    adapter = write_adapter(tmp_path / "adapter", None)
    key = f"base_model.model.{QUERY}.lora_A.weight"
    change_tensors(adapter / "adapter_model.safetensors", {key: torch.ones(shape)})

    assert set(adapter_at(adapter).norms) == set(attention_modules()) - {QUERY}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_no_numbers(number: float, tmp_path: Path) -> None:
    """Shown for people, null for programs; a merge refuses such an adapter."""
    adapter = write_adapter(tmp_path / "adapter", write_base(tmp_path / "base"))
    key = f"base_model.model.{QUERY}.lora_A.weight"
    change_tensors(adapter / "adapter_model.safetensors", {key: torch.full((4, HIDDEN), number, dtype=torch.float64)})

    shown, data = cli("inspect", adapter), cli("inspect", adapter, "--format", "json")

    assert (shown.code, data.code) == (0, 0)
    assert [line.split()[1] for line in shown.out.splitlines() if line.startswith(QUERY)] in (["nan"], ["inf"])
    assert json.loads(data.out, parse_constant=pytest.fail)["norms"][QUERY] is None


@pytest.mark.parametrize("alpha", [10**400, -(10**400), float("nan"), float("inf")], ids=["huge", "low", "nan", "inf"])
def test_alpha_that_is_no_finite_number(alpha: float, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", write_base(tmp_path / "base"), alpha=alpha)

    with pytest.raises(UnusableInput, match=r"the alpha of .*expected a number"):
        inspect(adapter)


def test_base_that_is_not_here(tmp_path: Path) -> None:
    found = adapter_at(write_adapter(tmp_path / "adapter", "/home/somebody/base"))

    assert (found.base, found.base_found, found.base_parameters) == ("/home/somebody/base", False, None)


def test_base_that_the_user_names_must_be_one(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "/home/somebody/base")
    (tmp_path / "empty").mkdir()

    with pytest.raises(UnusableInput):
        inspect(adapter, tmp_path / "empty")


def test_adapter_that_cannot_be_merged(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", None)
    edit_json(adapter / "adapter_config.json", peft_type="PROMPT_TUNING")

    found = adapter_at(adapter)

    assert found.route == "refused"
    assert found.reason


@pytest.mark.parametrize("place", ["", "0_Transformer", "mine"])
def test_adapter_in_a_sub_folder(place: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter" / place, None)
    if place == "0_Transformer":
        write_modules(tmp_path / "adapter", transformer=place)

    assert adapter_at(tmp_path / "adapter").tensors == 8


def test_model(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", shards=2, dtype=torch.bfloat16, sentence_transformers=True)

    found = inspect(base)

    assert isinstance(found, ModelInspection)
    assert (found.model_class, found.architecture, found.dtype) == ("SentenceTransformer", "BertModel", "BF16")
    assert found.modules == (("Transformer", ""), ("Pooling", "1_Pooling"))
    assert [name for name, _ in found.shards] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert sum(size for _, size in found.shards) == found.nbytes == 2 * found.parameters
    assert found.tensors == len(bert_shapes())
    assert found.settings["prompts"] == {"query": "query: "}
    assert found.remote_code == ()


def test_model_with_code(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", config={"auto_map": {"AutoModel": "own.Own", "AutoConfig": "own.OwnConfig"}})

    found = inspect(base)

    assert isinstance(found, ModelInspection)
    assert found.remote_code == ("own.Own", "own.OwnConfig")
    assert found.model_class is None


def test_neither(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"neither a PEFT adapter nor a model: .*\. Pass the directory"):
        inspect(tmp_path)
    with pytest.raises(UnusableInput, match="does not exist"):
        inspect(tmp_path / "none")


def test_torch_is_not_needed(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base)
    code = (
        "import sys; from ingraft.cli.app import main; code = main(['inspect', sys.argv[1]])\n"
        "print(code, sorted({'torch', 'transformers', 'peft'} & sys.modules.keys()), file=sys.stderr)"
    )
    for path in (base, adapter):
        run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
        assert run.stderr == "0 []\n"


def test_command_for_people(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", sentence_transformers=True)
    adapter = write_adapter(tmp_path / "adapter", base)

    run = cli("inspect", adapter)
    assert (run.code, run.err) == (0, "")
    assert "LoRA" in run.out
    assert all(module.rsplit(".", 1)[-1] in run.out for module in attention_modules())

    run = cli("inspect", base)
    assert (run.code, run.err) == (0, "")
    assert "BertModel" in run.out
    assert "Pooling" in run.out


def test_command_as_json(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", sentence_transformers=True)
    adapter = write_adapter(tmp_path / "adapter", base)

    found = json.loads(cli("inspect", adapter, "--format", "json").out)
    assert found["method"] == "LoRA"
    assert found["modules"] == attention_modules()
    assert set(found["norms"]) == set(attention_modules())
    assert json.loads(cli("inspect", base, "--format", "json").out)["architecture"] == "BertModel"


@pytest.mark.parametrize("damage", [b"", b"{}" * 100, b"\xff" * 100])
@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_damaged_adapter(file: str, damage: bytes, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", None)
    (adapter / file).write_bytes(damage)

    run = cli("inspect", adapter)

    assert run.code == 2
    assert run.err.startswith("error: ")
    assert file in run.err


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("lora_alpha", "query", "the alpha of .* is 'query', expected a number"),
        ("alpha_pattern", {"query": None}, "the alpha of .* is None, expected a number"),
        ("alpha_pattern", ["query"], r"alpha_pattern is \['query'\], expected values by module"),
        ("target_modules", 1, "target_modules is 1, expected names or a pattern"),
    ],
)
def test_settings_of_another_type(setting: str, value: object, message: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", write_base(tmp_path / "base"), **{setting: value})

    with pytest.raises(UnusableInput, match=message):
        inspect(adapter)
