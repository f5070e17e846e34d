"""A short model card for a directory that has none."""

from __future__ import annotations

import json

from ingraft.hub import looks_like_repo_id
from ingraft.upload.contents import Contents


def short_card(contents: Contents) -> str:
    """What the Hub needs to show the model rightly, and one sentence on where it comes from."""
    library = "peft" if contents.kind == "adapter" else "transformers"
    if contents.layout.is_sentence_transformers:
        library = "sentence-transformers"
    base = contents.manifest.get("base")
    name = base.get("name") if isinstance(base, dict) else None
    lines = ["---", f"library_name: {library}"]
    if isinstance(name, str) and looks_like_repo_id(name):
        lines.append(f"base_model: {json.dumps(name)}")
    lines += ["tags:", "- ingraft", "---", "", f"# {contents.root.absolute().name}", ""]
    adapter = contents.manifest.get("adapter")
    if isinstance(adapter, dict) and isinstance(name, str):
        method = contents.manifest.get("method", "PEFT")
        lines.append(f"{name.rsplit('/', 1)[-1]} with the {method} adapter {adapter.get('name')} merged in by ingraft.")
    else:
        lines.append(f"An {contents.kind}." if contents.kind != "merged model" else "A merged model.")
    return "\n".join(lines) + "\n"
