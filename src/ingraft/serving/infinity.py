"""infinity-emb 0.0.78 with its torch engine, from its source and from runs. It is built on Sentence Transformers 3."""

from __future__ import annotations

from ingraft.serving import common, sentence_transformers
from ingraft.serving.facts import ModelFacts
from ingraft.serving.rule import Rule

_PACKAGE = "infinity_emb/"

RULES: tuple[Rule[ModelFacts], ...] = (
    Rule(
        "refuses",
        common.outside_root,
        f"{_PACKAGE}inference/select_model.py: opens DIR/config.json",
        "Merge one of its transformers alone.",
    ),
    *(
        # pyproject.toml: sentence-transformers >=3.0.1,<4
        Rule(rule.effect, rule.found, f"sentence-transformers 3: {rule.source}", rule.fix)
        for rule in sentence_transformers.RULES
        if rule.holds_for((3, 4))
    ),
    Rule(
        "differs",
        common.not_normalized,
        f"{_PACKAGE}transformer/embedder/sentence_transformer.py: normalises always",
        "",
    ),
    Rule("note", common.prompts, f"{_PACKAGE}infinity_server.py: knows no prompts", "Put the prompt before each text."),
)
