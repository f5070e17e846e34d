"""Ways to save an adapter, dtypes that it and its base have, and the models of Sentence Transformers around it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conformance.adapters import TUNERS, Trained, by_peft, by_sentence_transformers, change_tensors, config_for, disturb
from conformance.architectures import Dtype, base
from conformance.comparison import check_parameters, error, exact_parameters, in_float64
from conformance.merging import LIMITS, NOISE, check_merge, check_refused
from helpers.files import stored_tensors
from helpers.models import copy_of, new_folder, quiet
from ingraft.pipeline import merge


@pytest.mark.parametrize(
    "options",
    [
        {"name": "mine"},
        {"safe_serialization": False},
        {"save_embedding_layers": True},
        {"safe_serialization": False, "name": "mine"},
    ],
    ids=str,
)
@pytest.mark.parametrize("tuner", ["lora", "vera", "adamss"])
def test_ways_to_save(tuner: str, options: dict[str, Any]) -> None:
    trained = by_peft(base("bert"), config_for(tuner, "bert"), size=TUNERS[tuner].size, **options)
    check_merge(trained, base("bert"), "bert", noise=TUNERS[tuner].noise)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tuner", ["lora", "oft"])
def test_adapter_in_another_dtype(tuner: str, dtype: Dtype, stored: torch.dtype) -> None:
    trained = by_peft(base("bert", dtype), config_for(tuner, "bert"))
    with torch.no_grad():
        for name, parameter in trained.live.named_parameters():
            if ".lora_" in name or ".oft_" in name:
                parameter.copy_(parameter.to(stored))
    change_tensors(trained.folder, lambda key, value: (key, value.to(stored)))
    check_merge(trained, base("bert", dtype), "bert", noise=TUNERS[tuner].noise)


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_dtype_of_the_output(stored: Dtype, asked: Dtype) -> None:
    trained = by_peft(base("qwen2", stored), config_for("dora", "qwen2"))
    result = merge(trained.folder, new_folder("merged") / "out", dtype=asked)
    merged = transformers.AutoModel.from_pretrained(result.output, dtype="auto").eval()
    assert {parameter.dtype for parameter in merged.parameters()} == {getattr(torch, asked)}
    exact = exact_parameters(in_float64(trained.live))
    check_parameters(merged, merged, exact, noise=TUNERS["dora"].noise)


def test_plain_adapter_over_a_sentence_transformers_base() -> None:
    """Pooling, Dense and Normalize are the base's."""
    from sentence_transformers import SentenceTransformer

    folder = base("bert", layout="dense")
    trained = by_peft(folder, config_for("lora", "bert"))
    whole, before = (SentenceTransformer(str(folder), device="cpu").eval() for _ in range(2))
    whole[0].model = trained.live
    check_merge(Trained(trained.folder, trained.live, whole, before), folder, "bert", noise=NOISE)


def test_router_with_an_adapter_on_each_route() -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    def route(architecture: str) -> list[nn.Module]:
        return [Transformer(str(base(architecture))), Pooling(32, "mean")]

    with quiet():
        model = SentenceTransformer(
            modules=[Router.for_query_document(route("bert"), route("distilbert")), Normalize()], device="cpu"
        )
        folder = new_folder("router")
        model.save_pretrained(str(folder))
        model = SentenceTransformer(str(folder), device="cpu").eval()
        for number, (name, architecture) in enumerate([("query", "bert"), ("document", "distilbert")]):
            transformer = model[0].sub_modules[name][0]
            transformer.model.add_adapter(config_for(["lora", "dora"][number], architecture))
            disturb(transformer.model, seed=number)
        adapter = new_folder("adapter")
        model.save_pretrained(str(adapter))
        result = merge(adapter, new_folder("merged") / "out", base=folder)
        merged, before = (SentenceTransformer(str(path), device="cpu").eval() for path in (result.output, folder))
    assert result.report is not None
    assert result.report.passed
    assert not [*result.output.rglob("adapter_*")]
    for task in ("query", "document"):
        live = model[0].sub_modules[task][0].model
        plain, start = (m[0].sub_modules[task][0].model for m in (merged, before))
        check_parameters(plain, start, exact_parameters(in_float64(live)), noise=TUNERS["dora"].noise)
        texts = ["fever and cough", "left hand"]
        found, expected, unadapted = (m.double().encode(texts, task=task) for m in (merged, model, before))
        assert error(torch.tensor(found), torch.tensor(expected)) < LIMITS[torch.float32]
        assert error(torch.tensor(unadapted), torch.tensor(expected)) > 0.01


def test_tensors_of_other_dtypes_pass_through() -> None:
    """float8, integers and booleans that the class does not know keep their bytes; so do float8 ones beside edits."""
    folder = copy_of(base("bert"))
    tensors = load_file(folder / "model.safetensors")
    extra = {
        "vision.weight": torch.randn(8, 8).to(torch.float8_e4m3fn),
        "vision.other": torch.randn(8, 8).to(torch.float8_e5m2),
        "vision.scale": torch.rand(3).double(),
        "vision.packed": torch.randint(0, 255, (7, 3), dtype=torch.uint8),
        "vision.counts": torch.arange(5),
        "vision.mask": torch.tensor([True, False]),
    }
    save_file({**tensors, **extra}, folder / "model.safetensors", metadata={"format": "pt"})
    trained = by_peft(folder, config_for("lora", "bert"))
    result = check_merge(trained, folder, "bert", noise=NOISE)
    before, after = stored_tensors(folder), stored_tensors(result.output)
    assert {name: after[name] for name in extra} == {name: before[name] for name in extra}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=str)
def test_adapted_layer_in_a_dtype_that_cannot_be_edited_is_refused(dtype: torch.dtype) -> None:
    trained = by_peft(base("bert"), config_for("lora", "bert"))
    folder = copy_of(base("bert"))
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.attention.self.query.weight"
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    check_refused(trained.folder, "encoder.layer.1.attention.self.query", "--base", folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("tuner", "kind"),
    [("lora", "linear"), ("dora", "linear"), ("ia3", "linear"), ("oft", "linear"), ("vera", "linear"),
     ("glora", "linear"), ("adamss", "linear"), ("tokens", "embedding"), ("ln-tuning", "norm")],
)  # fmt: skip
def test_adapter_that_is_not_finite_is_refused(tuner: str, kind: str, value: float) -> None:
    trained = by_peft(base("bert"), config_for(tuner, "bert", kind))
    keys = [key for key, tensor in load_file(trained.folder / "adapter_model.safetensors").items() if tensor.numel()]

    def spoil(key: str, tensor: Tensor) -> tuple[str, Tensor]:
        if key == keys[-1] and tensor.is_floating_point():
            tensor = tensor.clone()
            tensor.view(-1)[-1] = value
        return key, tensor

    change_tensors(trained.folder, spoil)
    check_refused(trained.folder, "NaN or infinity")


def test_multi_vector_encoder() -> None:
    from sentence_transformers import MultiVectorEncoder

    with quiet():
        folder = new_folder("vectors")
        MultiVectorEncoder(str(base("bert")), device="cpu").save_pretrained(str(folder))
        trained = by_sentence_transformers(folder, config_for("lora", "bert"), model_class="MultiVectorEncoder")
        result = merge(trained.folder, new_folder("merged") / "out")
        merged = MultiVectorEncoder(str(result.output), device="cpu").eval()
    check_parameters(merged[0].model, trained.before[0].model, exact_parameters(in_float64(trained.live)), noise=NOISE)
    texts = ["fever and cough", "left hand"]
    found, expected, unadapted = (m.double().encode_document(texts) for m in (merged, trained.whole, trained.before))
    for index in range(len(texts)):
        answer = torch.as_tensor(expected[index])
        assert error(torch.as_tensor(found[index]), answer) < LIMITS[torch.float32]
        assert error(torch.as_tensor(unadapted[index]), answer) > 0.01


def test_prompts_and_dense_of_the_adapter_win() -> None:
    trained = by_sentence_transformers(base("bert", layout="dense"), config_for("lora", "bert"))
    config = trained.folder / "config_sentence_transformers.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "prompts": {"query": "search "}}))
    result = check_merge(trained, base("bert", layout="dense"), "bert", noise=NOISE)
    assert json.loads((result.output / config.name).read_text())["prompts"] == {"query": "search "}
