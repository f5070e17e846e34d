"""Merges, end to end, over the methods table, architectures, kinds of layers, dtypes and layouts, with PEFT as judge.

The truth is the live model that the adapter was saved from, unmerged, in float64. Every case merges with the proof,
loads the result without peft, and compares parameters, stored bytes and outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from conformance.adapters import TUNERS, by_peft, by_sentence_transformers, config_for
from conformance.architectures import ARCHITECTURES, Dtype, Layout, base
from conformance.merging import check_merge
from ingraft.methods.method import LayerKind
from ingraft.methods.table import METHODS

pytestmark = [
    # PEFT's, of no matter here
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
    pytest.mark.filterwarnings("ignore:Casting complex values to real"),
]

ROWS = {row.name: row for row in METHODS}


@dataclass(frozen=True)
class Case:
    """`options` are changes to the tuner's config."""

    tuner: str
    architecture: str
    kind: LayerKind = "linear"
    dtype: Dtype = "float32"
    layout: Layout = "plain"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = [f"{name}={value}" for name, value in self.options.items() if name != "target_modules"]
        return " ".join([self.tuner, self.architecture, self.kind, self.dtype, self.layout, *options])


# Every row, on every kind of layer that it knows.
ON: Mapping[LayerKind, tuple[str, ...]] = {
    "linear": ("bert", "qwen2"),
    "conv1d": ("gpt2",),
    "embedding": ("bert", "qwen2"),
    "conv": ("squeezebert", "vit"),
    "norm": ("bert", "qwen2"),
}
# What PEFT does not train, though the row could merge it (embeddings: it merges trained tokens beside them).
PEFT_CANNOT: frozenset[tuple[str, LayerKind, str]] = frozenset(
    {("bdlora", "conv1d", "gpt2")}
    | {(name, "embedding", a) for name in ("bdlora", "kasa", "velora", "monteclora") for a in ON["embedding"]}
    | {(name, "conv", "squeezebert") for name in ("adalora", "boft", "hra", "ia3")}
)
BY_ROW = [
    Case(name, architecture, kind)
    for name, tuner in TUNERS.items()
    for kind in sorted(ROWS[tuner.row].kinds)
    for architecture in ON[kind]
    if (name, kind, architecture) not in PEFT_CANNOT
]

# Every architecture: a plain product, one that needs the norms of rows, ones that scale or turn, whole rows, vectors.
BY_ARCHITECTURE = [
    Case(name, architecture, kind)
    for architecture, made in ARCHITECTURES.items()
    for name, kind, targets in [
        *[(name, "linear", made.linear) for name in ("lora", "dora", "ia3", "oft", "lokr") if architecture != "gpt2"],
        *[(name, "conv", made.convolutions) for name in ("lora", "dora", "loha")],
        ("ln-tuning", "norm", made.norms),
        *[(name, "embedding", (made.embedding,)) for name in ("lora", "tokens") if not made.pixels],
    ]
    if targets and architecture != "bert-wide" and (name, architecture) != ("tokens", "t5")
]
# Split when they are loaded: methods that need the whole base of a layer.
BY_ARCHITECTURE += [
    Case(name, architecture) for architecture in ("nomic-bert", "gte") for name in ("pissa", "osf", "glora", "road")
]

BY_DTYPE = [
    Case(name, architecture, {"ln-tuning": "norm", "tokens": "embedding"}.get(name, "linear"), dtype)  # type: ignore[arg-type]
    for name in TUNERS
    for architecture, dtype in (("bert", "bfloat16"), ("qwen2", "float16"))
]
BY_DTYPE += [
    Case(name, architecture, dtype=dtype)
    for architecture in ("qwen3", "gte", "modernbert", "albert")
    for name, dtype in (("lora", "bfloat16"), ("ia3", "float16"))
]
BY_DTYPE += [Case(name, "gpt2", "conv1d", dtype) for name in ("dora", "pissa") for dtype in ("bfloat16", "float16")]

# The proof's limits close in on what rounding does as rows grow.
BY_DTYPE += [
    Case(name, "bert-wide", dtype=dtype)
    for name, dtype in (("pissa", "bfloat16"), ("olora", "float16"), ("kasa", "bfloat16"), ("osf", "float16"))
]

BY_LAYOUT = [
    Case(name, architecture, dtype=dtype, layout=layout)
    for layout in ("shards", "pickled", "pickled shards", "sentence", "dense", "folder")
    for architecture, name, dtype in (
        ("bert", "lora", "float32"),
        ("qwen3", "ia3", "bfloat16"),
        ("nomic-bert", "dora", "float16"),
        ("bert", "glora", "float32"),
    )
]
BY_LAYOUT += [
    Case(name, architecture, kind, layout="sentence")
    for architecture in ("bert-mlm", "bert-scores", "mpnet", "distilbert")
    for name, kind in (("lora", "linear"), ("lora", "embedding"), ("ln-tuning", "norm"))
]

BY_BIAS = [
    Case(name, architecture, kind, options={"bias": bias})
    for name, architecture, kind, biases in [
        ("lora", "bert", "linear", ("all", "lora_only")),
        ("lora", "gte", "linear", ("all", "lora_only")),
        ("lora", "gpt2", "conv1d", ("all", "lora_only")),
        ("lora", "qwen2", "linear", ("all", "lora_only")),
        ("dora", "bert", "linear", ("all", "lora_only")),
        ("adalora", "bert", "linear", ("all", "lora_only")),
        ("oft", "bert", "linear", ("all", "oft_only")),
        ("boft", "bert", "linear", ("all", "boft_only")),
        ("hra", "bert", "linear", ("all", "hra_only")),
        ("vera", "bert", "linear", ("all", "vera_only")),
        ("tinylora", "bert", "linear", ("all", "tinylora_only")),
    ]
    for bias in biases
]
BY_BIAS += [
    Case(name, architecture, kind, options={"lora_bias": True})
    for name, architecture, kind in [
        ("lora", "bert", "linear"),
        ("lora", "gpt2", "conv1d"),
        ("lora", "vit", "conv"),
        ("rslora", "distilbert", "linear"),
    ]
]
BY_BIAS += [Case("lora", "gte", options={"lora_bias": True, "target_modules": ["q_proj", "v_proj", "o_proj"]})]

CASES = list({str(case): case for case in [*BY_ROW, *BY_ARCHITECTURE, *BY_DTYPE, *BY_LAYOUT, *BY_BIAS]}.values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_merged_model_is_the_trained_one(case: Case) -> None:
    made, tuner = ARCHITECTURES[case.architecture], TUNERS[case.tuner]
    folder = base(case.architecture, case.dtype, case.layout)
    config = config_for(case.tuner, case.architecture, case.kind, **case.options)
    if case.layout in ("sentence", "dense", "folder"):
        trained = by_sentence_transformers(folder, config, model_class=made.sentence, size=tuner.size)
    else:
        trained = by_peft(folder, config, auto=made.auto, size=tuner.size)
    stored = {"pickled": base(case.architecture, case.dtype), "folder": folder / "0_Transformer"}.get(
        case.layout,
        base(case.architecture, case.dtype, "shards") if case.layout == "pickled shards" else folder,
    )
    result = check_merge(trained, stored, case.architecture, noise=tuner.noise, remains=tuner.remains)
    assert result.plan.method == tuner.row
    assert result.plan.route == ROWS[tuner.row].route


@pytest.mark.parametrize(("tuner", "kind", "architecture"), sorted(PEFT_CANNOT))
def test_peft_still_cannot(tuner: str, kind: LayerKind, architecture: str) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        by_peft(base(architecture), config_for(tuner, architecture, kind))


def test_every_mergeable_row_has_cases() -> None:
    covered = {(TUNERS[case.tuner].row, case.kind) for case in CASES}
    cannot = {(TUNERS[tuner].row, kind) for tuner, kind, _ in PEFT_CANNOT}
    wanted = {(row.name, kind) for row in METHODS if row.route != "refused" for kind in row.kinds}
    assert wanted - covered <= cannot - covered
    assert {row for row, _ in covered} == {row for row, _ in wanted}


@pytest.mark.parametrize(
    "architectures", [("bert", "vit", "squeezebert"), ("qwen2", "gpt2")], ids=["encoder", "decoder"]
)
def test_every_mergeable_row_is_tried_on_an_encoder_and_a_decoder(architectures: tuple[str, ...]) -> None:
    tried = {TUNERS[case.tuner].row for case in CASES if case.architecture in architectures}
    assert tried == {row.name for row in METHODS if row.route != "refused"}
