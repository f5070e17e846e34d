"""The small files of a merged model."""

from __future__ import annotations

from pathlib import Path

from helpers.handmade import write_adapter, write_base
from helpers.merging import merged
from ingraft.plan import plan_merge
from ingraft.verification.files import no_other_files, verify_files


def test_small_files(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", sentence_transformers=True)
    (base / "README.md").write_text("card")
    adapter = write_adapter(tmp_path / "adapter", base)
    output, plan = merged(adapter, "--dtype", "float16"), plan_merge(adapter, dtype="float16")

    found, others = verify_files(plan, output)
    assert found.passed
    assert others.passed
    assert found.value == found.limit == 6

    (output / "README.md").write_text("the card, extended")
    assert verify_files(plan, output)[0].passed

    for name in ("config.json", "1_Pooling/config.json"):
        content = (output / name).read_text()
        (output / name).write_text(content + " ")
        found, _ = verify_files(plan, output)
        assert not found.passed
        assert (found.where, found.value) == (name, 5)
        (output / name).write_text(content)

    (output / "modules.json").unlink()
    assert not verify_files(plan, output)[0].passed


def test_files_that_nobody_wrote(tmp_path: Path) -> None:
    for name in ("README.md", "ingraft.json", "config.json", "a/b.bin", ".git/config", "a/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    assert no_other_files(tmp_path, ["config.json", "a/b.bin"]).passed
    found = no_other_files(tmp_path, ["config.json"])
    assert (found.passed, found.where) == (False, "a/b.bin")
    (tmp_path / "a" / "ingraft.json").touch()  # the merge's own lies at the top
    assert no_other_files(tmp_path, ["config.json", "a/b.bin"]).where == "a/ingraft.json"
    (tmp_path / "a" / "ingraft.json").unlink()

    (tmp_path / "b.bin").symlink_to("nowhere")
    assert no_other_files(tmp_path, ["config.json"]).where == "a/b.bin, b.bin"
