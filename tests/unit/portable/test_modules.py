"""Types and configs of modules in the older names."""

from __future__ import annotations

from typing import Any

import pytest

from ingraft.portable.modules import POOLING_FLAGS, module_config, old_type, pooling_modes

PACKAGE = "sentence_transformers"


@pytest.mark.parametrize(
    ("name", "task", "older"),
    [
        ("base.modules.transformer.Transformer", None, "models.Transformer"),
        ("base.modules.transformer.Transformer", "fill-mask", "sparse_encoder.models.MLMTransformer"),
        ("sentence_transformer.modules.pooling.Pooling", None, "models.Pooling"),
        ("sentence_transformer.modules.normalize.Normalize", None, "models.Normalize"),
        ("base.modules.router.Router", None, "models.Router"),
        ("sparse_encoder.modules.splade_pooling.SpladePooling", None, "sparse_encoder.models.SpladePooling"),
        ("models.Dense", None, "models.Dense"),
        ("multi_vector_encoder.modules.MultiVectorMask", None, "multi_vector_encoder.modules.MultiVectorMask"),
    ],
)
def test_old_type(name: str, task: str | None, older: str) -> None:
    assert old_type(f"{PACKAGE}.{name}", task, legacy=True) == f"{PACKAGE}.{older}"


def test_a_class_of_the_models_own_keeps_its_name() -> None:
    assert old_type("modeling_own.Transformer", None, legacy=True) == "modeling_own.Transformer"


def test_old_types_are_found_where_the_library_has_them_now() -> None:
    """The installed release resolves each older name to the class of the newer one."""
    from sentence_transformers.util import import_from_string

    from ingraft.portable.modules import _OLD_TYPES

    for new, old in _OLD_TYPES.items():
        assert import_from_string(old) is import_from_string(new), old


@pytest.mark.parametrize("mode", POOLING_FLAGS)
def test_one_pooling_mode_in_both_schemas(mode: str) -> None:
    found = module_config(
        "Pooling", {"embedding_dimension": 8, "pooling_mode": mode, "include_prompt": False}, legacy=True
    )

    assert found == {
        "word_embedding_dimension": 8,
        "include_prompt": False,
        "pooling_mode": mode,
        **{flag: name == mode for name, flag in POOLING_FLAGS.items()},
    }


def test_older_pooling_config_gets_the_newer_schema_too() -> None:
    found = module_config("Pooling", {"word_embedding_dimension": 8, "pooling_mode_cls_token": True}, legacy=True)

    assert found["pooling_mode"] == "cls"
    assert found["pooling_mode_mean_tokens"] is False


def test_several_modes_are_flags_alone() -> None:
    """Older releases call `.lower()` on `pooling_mode`."""
    found = module_config("Pooling", {"embedding_dimension": 8, "pooling_mode": ["cls", "mean"]}, legacy=True)

    assert "pooling_mode" not in found
    assert pooling_modes(found) == ("cls", "mean")


@pytest.mark.parametrize("modes", [["mean", "cls"], ["mean", "mean"], "something"])
def test_what_flags_cannot_say_stays(modes: Any) -> None:
    config = {"word_embedding_dimension": 8, "pooling_mode": modes}

    assert module_config("Pooling", config, legacy=True) == config


def test_dense_keeps_what_is_not_the_default() -> None:
    config = {"in_features": 4, "module_input_name": "token_embeddings", "module_output_name": "sentence_embedding"}

    assert module_config("Dense", config, legacy=True) == {"in_features": 4, "module_input_name": "token_embeddings"}


@pytest.mark.parametrize(
    "config",
    [
        {"embedding_dimension": 8, "pooling_mode": "mean"},
        {"embedding_dimension": 8, "pooling_mode": ["cls", "max"]},
        {"in_features": 4, "module_input_name": "sentence_embedding", "use_residual": True},
    ],
    ids=str,
)
def test_twice_is_once(config: dict[str, Any]) -> None:
    for kind in ("Pooling", "Dense"):
        once = module_config(kind, config, legacy=True)
        assert module_config(kind, once, legacy=True) == once


def test_portable_only_adds() -> None:
    config = {"embedding_dimension": 8, "pooling_mode": "lasttoken", "include_prompt": False}

    found = module_config("Pooling", config, legacy=False)

    assert found == {**config, **{flag: name == "lasttoken" for name, flag in POOLING_FLAGS.items()}}
    several = {"embedding_dimension": 8, "pooling_mode": ["cls", "mean"]}
    assert module_config("Pooling", several, legacy=False) == {
        **several,
        **{flag: name in ("cls", "mean") for name, flag in POOLING_FLAGS.items()},
    }
    dense = {"in_features": 4, "module_output_name": "sentence_embedding"}
    assert module_config("Dense", dense, legacy=False) == dense


def test_a_transformer_with_a_head_is_renamed_for_old_releases_alone() -> None:
    name = f"{PACKAGE}.base.modules.transformer.Transformer"

    assert old_type(name, "fill-mask", legacy=False) == name
