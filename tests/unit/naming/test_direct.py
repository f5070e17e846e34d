"""Names that fit the checkpoint as they are, or after one change of prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ingraft.checkpoint import Checkpoint, open_checkpoint
from ingraft.naming import Names, Region
from ingraft.naming.direct import common_change, direct_names, is_embedding_name


def checkpoint(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Checkpoint:
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    return open_checkpoint(folder)


def find(
    folder: Path,
    stored: Sequence[str],
    parameters: Sequence[str],
    optional: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
) -> Names:
    return direct_names(parameters, optional, checkpoint(folder, dict.fromkeys(stored, (4, 3))), config or {})


def stored_names(names: Names) -> dict[str, str]:
    return {parameter: regions[0].tensor for parameter, regions in names.regions.items()}


def test_as_they_are(tmp_path: Path) -> None:
    names = find(
        tmp_path, ["layer.0.query.weight", "layer.0.query.bias", "x"], ["layer.0.query.weight"], ["layer.0.query.bias"]
    )

    assert names.regions["layer.0.query.weight"] == (Region("layer.0.query.weight", (0, 12), (0, 4)),)
    assert names.shapes["layer.0.query.weight"] == (4, 3)
    assert names.kinds["layer.0.query"] == "linear"
    assert names.missing == ()
    assert names.how == "names fit as they are"


@pytest.mark.parametrize("prefix", ["bert", "model", "model.language_model", "a.b.c.d"])
@pytest.mark.parametrize("off", [True, False], ids=["taken off", "put on"])
def test_prefix(prefix: str, off: bool, tmp_path: Path) -> None:
    short = [f"layers.{n}.attention.query.{kind}" for n in (0, 1) for kind in ("weight", "bias")]
    long = [f"{prefix}.{name}" for name in short]
    asked, stored = (long, short) if off else (short, long)

    names = find(tmp_path, [*stored, "lm_head.weight"], asked[::2], asked[1::2])

    assert stored_names(names) == dict(zip(asked, stored, strict=True))
    assert names.missing == ()
    assert names.how == ("names fit without " if off else "names fit below ") + prefix


def test_one_change_for_all(tmp_path: Path) -> None:
    """A prefix that fits only some of the parameters fits none."""
    names = find(
        tmp_path,
        ["encoder.layer.0.query.weight", "layer.1.query.weight"],
        ["bert.encoder.layer.0.query.weight", "bert.encoder.layer.1.query.weight"],
    )

    assert set(names.missing) == {"bert.encoder.layer.0.query.weight", "bert.encoder.layer.1.query.weight"}


def test_two_candidates_are_none(tmp_path: Path) -> None:
    """Two towers hold the same names: guessing one would be wrong half of the time."""
    stored = [f"{tower}.layer.0.query.weight" for tower in ("question_encoder", "context_encoder")]

    names = find(tmp_path, stored, ["layer.0.query.weight"])

    assert names.missing == ("layer.0.query.weight",)
    assert names.regions == {}


def test_exact_names_beat_prefixes(tmp_path: Path) -> None:
    names = find(tmp_path, ["layer.0.query.weight", "bert.layer.0.query.weight"], ["layer.0.query.weight"])

    assert stored_names(names) == {"layer.0.query.weight": "layer.0.query.weight"}


def test_nothing_fits(tmp_path: Path) -> None:
    names = find(tmp_path, ["encoder.layer.0.query.weight"], ["decoder.block.0.q.weight"], ["decoder.block.0.q.bias"])

    assert names.missing == ("decoder.block.0.q.weight", "decoder.block.0.q.bias")
    assert names.regions == {}
    assert names.how == "names do not fit as they are"


def test_no_suffix_is_shorter_than_two_parts(tmp_path: Path) -> None:
    """`bert.encoder.query.weight` does not fit a stored `query.weight` of something else."""
    names = find(tmp_path, ["weight", "other.weight"], ["bert.encoder.query.weight"])

    assert names.missing == ("bert.encoder.query.weight",)


def test_legacy_layer_norm_keeps_its_stored_name(tmp_path: Path) -> None:
    names = find(
        tmp_path,
        ["bert.layer.0.LayerNorm.gamma", "bert.layer.0.LayerNorm.beta"],
        ["layer.0.LayerNorm.weight"],
        ["layer.0.LayerNorm.bias"],
    )

    assert stored_names(names) == {
        "layer.0.LayerNorm.weight": "bert.layer.0.LayerNorm.gamma",
        "layer.0.LayerNorm.bias": "bert.layer.0.LayerNorm.beta",
    }


def test_compiled_base_keeps_its_stored_name(tmp_path: Path) -> None:
    names = find(tmp_path, ["_orig_mod.layer.0._orig_mod.query.weight"], ["layer.0.query.weight"])

    assert stored_names(names) == {"layer.0.query.weight": "_orig_mod.layer.0._orig_mod.query.weight"}


def test_optional_parameters_may_lie_elsewhere(tmp_path: Path) -> None:
    """A head beside the encoder has no prefix to take off."""
    names = find(
        tmp_path,
        ["bert.layer.0.query.weight", "classifier.weight"],
        ["layer.0.query.weight"],
        ["classifier.weight", "score.weight"],
    )

    assert stored_names(names)["classifier.weight"] == "classifier.weight"
    assert names.missing == ("score.weight",)


@pytest.mark.parametrize(
    ("name", "shape", "config", "kind"),
    [
        ("h.0.attn.c_attn.weight", (8, 24), {"model_type": "gpt2"}, "conv1d"),
        ("h.0.attn.c_proj.weight", (8, 8), {"model_type": "gpt2"}, "conv1d"),
        ("h.0.attn.c_proj.weight", (8, 8), {"model_type": "gpt_bigcode"}, "linear"),
        ("lm_head.weight", (8, 8), {"model_type": "gpt2"}, "linear"),
        ("wte.weight", (8, 8), {"model_type": "gpt2"}, "embedding"),
        ("embeddings.word_embeddings.weight", (8, 8), {}, "embedding"),
        ("embed_tokens.weight", (8, 8), {}, "embedding"),
        ("embed_proj.weight", (8, 8), {}, "linear"),
        ("LayerNorm.weight", (8,), {}, "norm"),
        ("conv.weight", (8, 4, 3), {}, "conv"),
        ("patch.weight", (8, 3, 4, 4), {}, "conv"),
    ],
)
def test_kinds(name: str, shape: tuple[int, ...], config: dict[str, Any], kind: str, tmp_path: Path) -> None:
    names = direct_names([name], [], checkpoint(tmp_path, {name: shape}), config)

    assert names.kinds == {name.removesuffix(".weight"): kind}


@pytest.mark.parametrize("name", ["shared.weight", "tok_embeddings.weight", "model.embed_tokens.weight", "wpe.weight"])
def test_embedding_names(name: str) -> None:
    assert is_embedding_name(name)


@pytest.mark.parametrize(
    "name", ["query.weight", "embed_in_proj.weight", "dense.weight", "embeddings.LayerNorm.weight"]
)
def test_other_names(name: str) -> None:
    assert not is_embedding_name(name)


def test_common_change_of_nothing() -> None:
    assert common_change([], {}) == ("", "")
