"""The model card of a merged model: Hub metadata, and a section between markers that says how it was made.

A card that the model has already is extended, its own words stay. (huggingface_hub's own tools for cards take as long
to import as a small merge takes.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from ingraft.checkpoint import dtype_name
from ingraft.front_matter import edited_front, split_card, split_front
from ingraft.steps import MergePlan, Source
from ingraft.verification.report import VerificationReport

CARD = "README.md"
BEGIN, END = "<!-- ingraft: how this model was made; `ingraft merge` writes this section -->", "<!-- /ingraft -->"
# What the card of an adapter says of itself, and a merged model is not.
_ADAPTER_TAGS = ("peft", "lora", "adapter", "transformers-adapter")
_PIPELINES = {"SentenceTransformer": "sentence-similarity", "CrossEncoder": "text-ranking"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def write_card(plan: MergePlan, folder: Path, report: VerificationReport | None) -> None:
    """Write or extend README.md in `folder`; `report` is None when the proof was switched off.

    No path of this machine stands in it: directories are called by their last name.
    """
    path = folder / CARD
    given = _text_of(path)
    metadata, body = split_card(given)
    body = _without_paths(_without_section(body), plan)
    title = "" if body.strip() else f"# {_name(plan.base)} with {_name(plan.adapter)}\n\n"
    text = f"{title}{body.strip()}\n\n" if body.strip() else title
    section = "\n".join([BEGIN, *_section(plan, report), END])
    edited = None if metadata is None else edited_front(split_front(given)[0], *_metadata(plan, metadata))
    # Metadata that are not YAML, or not an entry a line, are left to their owner as they are.
    head = given[: len(given) - len(split_front(given)[1])] if edited is None else f"---\n{edited}---\n\n"
    # (A directory's name need not be text.)
    path.write_text(f"{head}{text}{section}\n", encoding="utf-8", errors="replace")


def _metadata(plan: MergePlan, given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the Hub wants to know of a merge, and keys of `given` that go; everything else in it stays."""
    model_class = plan.layout.model_class
    known = [tag for tag in _list(given.get("tags")) if isinstance(tag, str)]
    tags = [tag for tag in known if tag not in _ADAPTER_TAGS and "adapter:" not in tag]
    own = ["sentence-transformers", "merge", "ingraft"] if model_class else ["merge", "ingraft"]
    found: dict[str, Any] = {}
    if model_class in _PIPELINES and "pipeline_tag" not in given:
        found["pipeline_tag"] = _PIPELINES[model_class]
    found |= {**_licence(plan, given), "library_name": "sentence-transformers" if model_class else "transformers"}
    base = hub_id(plan.base.name)
    if base:
        found |= {"base_model": base, "base_model_relation": "merge"}
    found["tags"] = list(dict.fromkeys([*tags, *own]))
    return found, ("base_model", "base_model_relation")  # an adapter's, or those of the base itself


def _licence(plan: MergePlan, given: Mapping[str, Any]) -> dict[str, Any]:
    """The licence of base and adapter; both where they are not the same."""
    cards = [_card_of(source) for source in (plan.base, plan.adapter)]
    said = [card for card in cards if isinstance(card.get("license"), str)]
    known = list(dict.fromkeys(card["license"] for card in said))
    if len(known) > 1:
        return {"license": "other", "license_name": " and ".join(known)}
    if known and given.get("license") is None:
        texts = {name: said[0].get(name) for name in ("license", "license_name", "license_link")}
        return {name: value for name, value in texts.items() if isinstance(value, str)}
    return {}


def _card_of(source: Source) -> Mapping[str, Any]:
    return split_card(_text_of(source.root / CARD))[0] or {}


def _text_of(card: Path) -> str:
    """Of a card that cannot be read, nothing: it is no reason to give up a merge."""
    try:
        return card.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""


def hub_id(name: str) -> str:
    """`name` where it is a model of the Hub, nothing where it is a directory."""
    is_path = PurePath(name).is_absolute() or Path(name).exists() or not _HUB_ID.fullmatch(name)
    return "" if is_path else name


def _name(source: Source) -> str:
    return hub_id(source.name) or source.root.name or "model"


def _section(plan: MergePlan, report: VerificationReport | None) -> list[str]:
    details, adapter = plan.base.details, plan.adapter.details
    settings = [f"r={adapter['r']}"] if "r" in adapter else []
    settings += [f"α={adapter['lora_alpha']}"] if "lora_alpha" in adapter else []
    dtypes = dict.fromkeys(dtype_name(step.dtype) for step in plan.steps() if step.action != "copy")
    edited, kept = plan.count("edit", "replace", "add"), plan.count("copy", "cast")
    facts = [
        ("base", f"{_linked(plan.base)} · {details['architecture']} · {details['parameters']:,} parameters"),
        ("adapter", " · ".join([_linked(plan.adapter), plan.method, *settings])),
        ("tensors", f"{edited} edited in {', '.join(dtypes)}, {kept} as in the base"),
        *_figures(report),
    ]
    loader = plan.layout.model_class
    module, call = ("sentence_transformers", loader) if loader else ("transformers", "AutoModel")
    load = f'{call}("path/or/id")' if loader else f'{call}.from_pretrained("path/or/id")'
    return [
        "## How this model was made",
        "",
        "ingraft merged a PEFT adapter into its base: a plain model, which loads without `peft`.",
        "",
        "```python",
        f"from {module} import {call}",
        "",
        f"model = {load}",
        "```",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in facts),
        "",
        "Versions, and the sha256 of every file, are in `ingraft.json`; `ingraft verify` compares them.",
    ]


def _figures(report: VerificationReport | None) -> list[tuple[str, str]]:
    if report is None:
        return [("proof", "switched off")]
    figures = report.figures
    facts = []
    if figures.get("relative_delta") is not None:
        facts.append(("‖ΔW‖ / ‖W‖", f"{figures['relative_delta']:.3g} over the edited tensors"))
    if figures.get("kept_of_delta") is not None:
        facts.append(("rounding keeps", f"{100 * figures['kept_of_delta']:.4g} % of the delta"))
    names = ", ".join(check.name for check in report.checks)
    facts.append(("proof", f"{len(report.checks)} of {len(report.checks)} checks passed before publishing: {names}"))
    answers = figures.get("embeddings")
    if answers:
        facts.append(
            ("answers", f"{answers['texts']} texts: the adapter changes them by {answers['effect']:.2g} of their size; "
             f"the merged model differs from base + adapter by {answers['of_effect']:.2g} of that")
        )  # fmt: skip
    return facts


def _linked(source: Source) -> str:
    name = hub_id(source.name)
    return f"[{name}](https://huggingface.co/{name})" if name else source.root.name or "model"


def _without_section(body: str) -> str:
    before, begin, rest = body.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before.rstrip()}\n\n{after.lstrip()}" if begin and end else body


def _without_paths(text: str, plan: MergePlan) -> str:
    """Cards that libraries write name base and adapter by their directories on the machine that trained."""
    for source in (plan.base, plan.adapter):
        for path in sorted({source.name, str(source.root), str(source.root.absolute())}, key=len, reverse=True):
            if PurePath(path).is_absolute():
                text = text.replace(path, _name(source))
    return text


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
