"""The model card of a merged model: Hub metadata, and a section between markers that says how it was made.

A card that the model has already is extended, its own words stay. PyYAML comes with huggingface_hub, whose own tools
for cards take as long to import as a small merge takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from ingraft.checkpoint import dtype_name
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
    given = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    metadata, body = split_card(given)
    body = _without_paths(_without_section(body), plan)
    title = "" if body.strip() else f"# {_name(plan.base)} with {_name(plan.adapter)}\n\n"
    text = f"{title}{body.strip()}\n\n" if body.strip() else title
    section = "\n".join([BEGIN, *_section(plan, report), END])
    # Metadata that are not YAML are left to their owner as they are.
    kept = given[: len(given) - len(split_front(given)[1])]
    head = kept if metadata is None else card_front(_metadata(plan, metadata))
    # (A directory's name need not be text.)
    path.write_text(f"{head}{text}{section}\n", encoding="utf-8", errors="replace")


def split_front(text: str) -> tuple[str, str]:
    """The YAML between the two `---` at the beginning of a card, and what follows them."""
    found = re.match(r"\s*---[ \t]*\n(.*?)^---[ \t]*$\n?", text, re.DOTALL | re.MULTILINE)
    return (found[1], text[found.end() :]) if found else ("", text)


def split_card(text: str) -> tuple[dict[str, Any] | None, str]:
    """Metadata and body of a card; None for metadata that are no YAML mapping."""
    import yaml

    front, body = split_front(text)
    try:
        metadata = yaml.safe_load(front) if front.strip() else {}
    except yaml.YAMLError:
        return None, body
    return (metadata if isinstance(metadata, dict) else None), body


def card_front(metadata: Mapping[str, Any]) -> str:
    import yaml

    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)}---\n\n"


def _metadata(plan: MergePlan, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with what the Hub wants to know of a merge; everything else in it stays."""
    metadata = dict(given)
    for key in ("base_model", "base_model_relation"):
        metadata.pop(key, None)  # an adapter's, or those of the base itself
    model_class = plan.layout.model_class
    tags = [tag for tag in _list(given.get("tags")) if str(tag) not in _ADAPTER_TAGS and "adapter:" not in str(tag)]
    own = ["sentence-transformers", "merge", "ingraft"] if model_class else ["merge", "ingraft"]
    found: dict[str, Any] = {"library_name": "sentence-transformers" if model_class else "transformers"}
    base = hub_id(plan.base.name)
    if base:
        found |= {"base_model": base, "base_model_relation": "merge"}
    found["tags"] = list(dict.fromkeys([*tags, *own]))
    if model_class in _PIPELINES:
        metadata.setdefault("pipeline_tag", _PIPELINES[model_class])
    return {**metadata, **_licence(plan, given), **found}


def _licence(plan: MergePlan, given: Mapping[str, Any]) -> dict[str, Any]:
    """The licence of base and adapter; both where they are not the same."""
    cards = [_card_of(source) for source in (plan.base, plan.adapter)]
    known = [card["license"] for card in cards if isinstance(card.get("license"), str)]
    if len(set(known)) > 1:
        return {"license": "other", "license_name": " and ".join(dict.fromkeys(known))}
    if known and "license" not in given:
        names = ("license", "license_name", "license_link")
        return next({name: card[name] for name in names if name in card} for card in cards if "license" in card)
    return {}


def _card_of(source: Source) -> Mapping[str, Any]:
    path = source.root / CARD
    try:
        return split_card(path.read_text(encoding="utf-8", errors="replace"))[0] or {}
    except OSError:
        return {}


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
