"""Tokenizer files in the names of transformers 4."""

from __future__ import annotations

from ingraft.portable.tokenizer import special_tokens_map, tokenizer_config


def test_class_and_further_tokens() -> None:
    new = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>", "<b>"], "pad_token": "[PAD]"}

    older = tokenizer_config(new)

    assert older == {
        "tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<a>", "<b>"], "pad_token": "[PAD]",
        "model_input_names": ["input_ids", "attention_mask"],
    }  # fmt: skip
    assert special_tokens_map(older) == {"pad_token": "[PAD]", "additional_special_tokens": ["<a>", "<b>"]}


def test_what_both_read_stays() -> None:
    config = {"tokenizer_class": "BertTokenizer", "extra_special_tokens": {"image_token": "<image>"}}

    assert tokenizer_config(config) == config
    assert special_tokens_map(config) == {}


def test_tokens_that_are_objects() -> None:
    token = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "special": True}

    assert special_tokens_map({"mask_token": token, "cls_token": None}) == {
        "mask_token": {"content": "<mask>", "lstrip": True}
    }
