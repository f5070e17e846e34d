"""The small files of a merged model."""

from __future__ import annotations

from pathlib import Path

from helpers.handmade import write_adapter, write_base
from helpers.merging import merged
from ingraft.plan import plan_merge
from ingraft.verification.files import verify_files


def test_small_files(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", sentence_transformers=True)
    (base / "README.md").write_text("card")
    adapter = write_adapter(tmp_path / "adapter", base)
    output, plan = merged(adapter, "--dtype", "float16"), plan_merge(adapter, dtype="float16")

    (found,) = verify_files(plan, output)
    assert found.passed
    assert found.value == found.limit == 6

    (output / "README.md").write_text("the card, extended")
    assert verify_files(plan, output)[0].passed

    for name in ("config.json", "1_Pooling/config.json"):
        content = (output / name).read_text()
        (output / name).write_text(content + " ")
        (found,) = verify_files(plan, output)
        assert not found.passed
        assert (found.where, found.value) == (name, 5)
        (output / name).write_text(content)

    (output / "modules.json").unlink()
    assert not verify_files(plan, output)[0].passed
