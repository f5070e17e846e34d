"""Fuzzes what reads text and data: `python fuzzing/texts.py modules|yaml|card|data|manifest --seconds 600`.

Needs atheris (pip install atheris). See engine.py for what is asked of every reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"

from engine import Pick, Reader, atheris, run  # noqa: E402

with atheris.instrument_imports(include=["ingraft"]):
    import pyarrow
    import pyarrow.parquet

    from helpers.handmade import write_adapter, write_base
    from helpers.keys import write_keys
    from helpers.spoiling import ODD, json_bytes, spoiled, spoiled_bytes
    from ingraft.adapter import open_adapter
    from ingraft.base_precision.settings import CARD_LINE, trained_over
    from ingraft.card import BEGIN, write_card
    from ingraft.diff.small_files import compare_files
    from ingraft.embedding.texts import open_texts, read_window, windows
    from ingraft.errors import IngraftError
    from ingraft.exporters.source import open_layout
    from ingraft.front_matter import split_card, split_front
    from ingraft.inspection import inspect
    from ingraft.integrity import verify_hashes, verify_manifest
    from ingraft.layout import read_layout, transformer_task
    from ingraft.pipeline import merge
    from ingraft.plan import FILE_LAYOUTS, plan_merge
    from ingraft.proof import read_task
    from ingraft.report.page import _effects
    from ingraft.report.parts import parts, read_manifest
    from ingraft.serving.doctor import examine
    from ingraft.serving.facts import read_facts
    from ingraft.signing import private_key, public_key, sign, verify_signature
    from ingraft.training.config import check_settings, command_line
    from ingraft.training.config_file import resolve, to_yaml
    from ingraft.training.data import read_training_data
    from ingraft.training.near_duplicates import near_duplicates
    from ingraft.training.split import split
    from ingraft.training.starter import starter
    from ingraft.training.tasks import held_out_task
    from ingraft.upload.card import short_card
    from ingraft.upload.contents import open_contents
    from ingraft.verification.report import VerificationReport

# Spoiling


def any_of(spoil: Callable[[Any, Pick], bytes], value: Any) -> Callable[[bytes, Pick], bytes]:
    """Mostly `spoil` of a value, which keeps the form of the file; now and then its sound bytes."""
    return lambda sound, pick: spoil(value, pick) if pick(4) else spoiled_bytes(sound, pick)


def as_json(value: Any, pick: Pick) -> bytes:
    return json_bytes(spoiled(value, pick, keys=KEYS))


def as_lines(rows: Any, pick: Pick) -> bytes:
    return b"\n".join(json_bytes(spoiled(row, pick) if pick(2) else row) for row in rows)


def as_csv(rows: Any, pick: Pick) -> bytes:
    delimiter, quote = ",;\t|"[pick(4)], ('"', "'", "")[pick(3)]
    lines = [[*rows[0]], *(row.values() for row in rows)]
    fields = [[str(spoiled(value, pick)) if pick(3) == 0 else str(value) for value in line] for line in lines]
    return "\n".join(delimiter.join(f"{quote}{field}{quote}" for field in line) for line in fields).encode(
        "utf-8", "replace"
    )


YAML = (
    "no", "1.10", "1e3", "0x_", "0o7", "1:30:00", "2020-01-31", "2020-13-45", "~", "", ".nan", "-.inf", "=", "%", "@a",
    "`a", "!!int x", "!!bool [a]", "!!map x", "!!binary a", "!!set {a}", "!a b", "! c",
    "!!python/object/apply:os.system [true]", "&a [*a]", "&a {x: 1}", "*a", "{<<: *a, y: 2}", "[*a, *a, *a]", "? [a]",
    "'", '"', "|\n  x\n\n  # y\n", ">+1\n   x\n",
    "\n- a\n-  b: c\n   d: e", "\n  a: 1\n  b:\n  - 2", "[a,\n b]", "{a", "- - - a", "9" * 5000, "a: b: c",
    "# c", "x # c", "...", "---", "\t", "\r", "\x85", "\u2028", "\ufeff", "\0", "\U0001f600",
)  # fmt: skip


def as_yaml(value: Any, pick: Pick) -> bytes:
    """Entries in blocks, some with values that only YAML has, some twice, in another order or on odd lines."""
    found = spoiled(value, pick, keys=KEYS)
    entries = list(found.items()) if isinstance(found, dict) else [("a", found)]
    lines = []
    for key, inner in entries:
        text = YAML[pick(len(YAML))] if pick(3) == 0 else json.dumps(inner, ensure_ascii=pick(2) == 0)
        name = YAML[pick(len(YAML))] if pick(12) == 0 else key
        lines += [f"{name}: {text}"] * (1 + (pick(12) == 0)) + [YAML[pick(len(YAML))]] * (pick(16) == 0)
    indent = " " * pick(3) if pick(6) == 0 else ""
    return "".join(f"{indent}{line}\n" for line in lines).encode("utf-8", "replace")


def as_card(value: Any, pick: Pick) -> bytes:
    begin = (b"", b"\xef\xbb\xbf", b"\n", b" ")[pick(4) if pick(4) == 0 else 0]
    quantised = f"{CARD_LINE}\n- load_in_4bit: {YAML[pick(len(YAML))]}{'(' * pick(999)}\n"
    body = ("# Mine\n", BEGIN, quantised, "---\n")[pick(4)]
    return begin + b"---\n" + as_yaml(value, pick) + b"---\n" + body.encode("utf-8", "replace")


TYPES = (
    pyarrow.string(), pyarrow.large_string(), pyarrow.string_view(), pyarrow.int64(), pyarrow.uint64(),
    pyarrow.float16(), pyarrow.float64(), pyarrow.bool_(), pyarrow.null(), pyarrow.binary(), pyarrow.date32(),
    pyarrow.date64(), pyarrow.timestamp("ns"), pyarrow.timestamp("s", "UTC"), pyarrow.timestamp("us", "Nowhere/X"),
    pyarrow.time64("ns"), pyarrow.duration("s"), pyarrow.decimal128(38, 3), pyarrow.list_(pyarrow.string()),
    pyarrow.list_(pyarrow.null()), pyarrow.map_(pyarrow.string(), pyarrow.int32()),
    pyarrow.struct([("content", pyarrow.string())]),
    pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])),
    pyarrow.dictionary(pyarrow.int8(), pyarrow.string()),
)  # fmt: skip
NAMES = ("anchor", "positive", "negative", "score", "label", "text", "group", "id", "x", "", "messages")


def as_parquet(_: Any, pick: Pick) -> bytes:
    """Columns of any type, with nulls, extreme and ordinary values."""
    names = [NAMES[pick(len(NAMES))] for _ in range(pick(4))]
    columns = []
    for _ in names:
        kind, count = TYPES[pick(len(TYPES))], 4
        values = [
            ODD[pick(len(ODD))] if pick(2) else ("a", 1, 2**40, [], [{"content": "b"}])[pick(5)] for _ in range(count)
        ]
        column = pyarrow.nulls(count, kind)
        with contextlib.suppress(pyarrow.ArrowException, ValueError, TypeError, OverflowError):
            column = pyarrow.array(values, kind)
        if pick(2) and column.null_count:
            with contextlib.suppress(pyarrow.ArrowException):
                column = pyarrow.array([pick(2**62) for _ in range(count)], pyarrow.int64()).cast(kind)
        columns.append(column)
    try:
        content = parquet(names, columns)
    except pyarrow.ArrowException:
        return b"PAR1"
    return content if pick(4) else spoiled_bytes(content, pick)


def parquet(names: Sequence[str], columns: Sequence[Any]) -> bytes:
    made = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names), made)
    content: bytes = made.getvalue().to_pybytes()
    return content


def sound_json(*files: Path, root: Path) -> dict[str, Any]:
    """Name → content and spoiler of small files as they are."""
    contents = {file.relative_to(root).as_posix(): file.read_bytes() for file in files}
    return {name: (content, any_of(as_json, json.loads(content))) for name, content in contents.items()}


def asked(read: Callable[..., object], *arguments: Any) -> None:
    """Ask one of several readers: an error in words is an answer, too."""
    with contextlib.suppress(IngraftError):
        read(*arguments)


# Readers

KEYS = (
    "transformer_task", "pooling_mode", "max_seq_length", "model_type", "types", "structure", "activation_fn",
    "id2label", "module_input_name", "prompts", "tags", "license", "license_name", "base_model", "lora", "columns",
    "more_data", "loss_arguments", "matryoshka", "resume", "text_config", "extra_special_tokens", "fingerprint",
    "verification", "export",
)  # fmt: skip
MODULES = "sentence_transformers.models"
ROUTER = [{"idx": 0, "name": "0", "path": "", "type": f"{MODULES}.Router"}]
ROUTES = {"types": {"query_0_Transformer": f"{MODULES}.Transformer"}, "structure": {"query": ["query_0_Transformer"]}}


def model(root: Path) -> tuple[Path, Path]:
    """A base and an adapter, both as Sentence Transformers stores them."""
    base = write_base(root / "base", sentence_transformers=True)
    (base / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "model_max_length": 32}')
    adapter = write_adapter(root / "adapter", base)
    left = shutil.ignore_patterns("model.safetensors", "config.json")
    shutil.copytree(base, adapter, dirs_exist_ok=True, ignore=left)
    shutil.copytree(base / "1_Pooling", adapter / "1_Pooling", dirs_exist_ok=True)
    (adapter / "2_Dense").mkdir()
    dense = {"in_features": 8, "out_features": 4, "bias": True, "activation_function": "torch.nn.Tanh"}
    (adapter / "2_Dense" / "config.json").write_text(json.dumps(dense))
    (adapter / "ingraft_training.json").write_text('{"base": {"name": "a"}}')
    return base, adapter


def modules(root: Path) -> Reader:
    base, adapter = model(root)
    small = [path for folder in (base, adapter) for path in sorted(folder.rglob("*.json"))]
    files = sound_json(*(path for path in small if path.name != "adapter_config.json"), root=root)
    files["routed/modules.json"] = (json_bytes(ROUTER), any_of(as_json, ROUTER))
    files["routed/router_config.json"] = (json_bytes(ROUTES), any_of(as_json, ROUTES))

    def read(folder: Path, name: str) -> None:
        place = folder / name.partition("/")[0]
        asked(lambda: transformer_task(read_layout(place)))
        asked(inspect, place)
        asked(open_layout, place)
        asked(read_facts, place)
        asked(lambda: json.dumps(examine(folder / "base").to_dict()))
        layout = FILE_LAYOUTS[(folder / name).stat().st_size % len(FILE_LAYOUTS)]
        plan = plan_merge(folder / "adapter", folder / "base", layout=layout)
        carried = [file.path for file in plan.carried] + [file.path for file in plan.written]
        for path in [*carried, *(shard.file for shard in plan.shards)]:
            assert ".." not in Path(path).parts, path
            assert not Path(path).is_absolute(), path
        json.dumps(plan.to_dict())

    return Reader(files, read, (IngraftError,))


CONFIG: dict[str, Any] = {
    "model": "a", "data": "b.csv", "output": "c", "lora": {"r": 8, "alpha": 16}, "columns": {"anchor": "x"},
    "epochs": 2, "more_data": [{"data": "x.csv", "loss_arguments": {"scale": 2}}], "matryoshka": [8, 4],
    "target_modules": "query", "learning_rate": 1e-3, "arguments": {"init_lora_weights": True}, "seed": 3,
    "report_to": ["wandb"], "resume": False,
}  # fmt: skip


def yaml_(root: Path) -> Reader:
    def read(folder: Path, _: str) -> None:
        text = (folder / "x.yaml").read_bytes().decode("utf-8", "replace")[:2000]
        flags = {("model",): "a", ("data",): "b", ("output",): "c"}
        for name in ("columns", "matryoshka", "more_data", "loss_arguments", "epochs", "seed"):
            asked(resolve, None, {**flags, (name,): text})
        config = resolve(folder / "x.yaml", {})
        asked(check_settings, config)
        command_line(config)
        (folder / "x.yaml").write_text(to_yaml(config), encoding="utf-8")
        again = resolve(folder / "x.yaml", {})
        assert to_yaml(again) == to_yaml(config), "written and read again it is another config"

    sound = json_bytes(CONFIG)
    return Reader({"x.yaml": (sound, any_of(as_yaml, CONFIG))}, read, (IngraftError,))


METADATA: dict[str, Any] = {
    "license": "mit", "language": ["no", "de"], "tags": ["a", "peft", "lora"], "base_model": "a/b", "version": "1.10",
    "datasets": ["a/b"], "pipeline_tag": "x", "library_name": "peft", "license_link": "x", "license_name": "y",
    "model-index": [{"name": "x", "results": [{"value": 0.5}]}],
}  # fmt: skip
OWN = {
    "base_model", "base_model_relation", "library_name", "pipeline_tag", "tags", "license", "license_name",
    "license_link",
}  # fmt: skip


def card(root: Path) -> Reader:
    base, adapter = model(root)
    plan = plan_merge(adapter, base)

    def read(folder: Path, _: str) -> None:
        trained_over(open_adapter(folder / "adapter"))
        file = folder / "out" / "README.md"
        given = file.read_text(encoding="utf-8-sig", errors="replace")
        before, body = split_card(given)
        write_card(plan, folder / "out", None)
        text = file.read_text(encoding="utf-8")
        after, _ = split_card(text)
        assert BEGIN in text
        assert BEGIN in given or body.strip() in text, "the owner's words"
        if before is None:
            assert after is None, "metadata that are none"
            assert text.startswith(given[: len(given) - len(body)]), "metadata that cannot be read"
        else:
            assert after is not None, "metadata"
            kept = {key: value for key, value in before.items() if key not in OWN}
            assert {key: value for key, value in after.items() if key not in OWN} == kept, "metadata of others"
            assert "tags" in after or split_front(text)[0] == split_front(given)[0], "our own metadata"

    sound = b"---\n" + as_yaml(METADATA, lambda count: count - 1) + b"---\n# Mine\n"
    names = ("out/README.md", "base/README.md", "adapter/README.md")
    return Reader({name: (sound, any_of(as_card, METADATA)) for name in names}, read, (IngraftError,))


ROWS: list[dict[str, Any]] = [
    {"anchor": f"question {n}", "positive": f"answer {n}", "score": n / 4, "negative": [f"no {n}"]} for n in range(4)
]
TEXTS: list[dict[str, Any]] = [{"text": f"a text {n}", "label": f"{n % 2}"} for n in range(4)]
CORPUS: list[dict[str, Any]] = [{"_id": f"d{n}", "title": "t", "text": f"a text {n}"} for n in range(3)]
QUERIES: list[dict[str, Any]] = [{"_id": f"q{n}", "text": f"a query {n}"} for n in range(3)]
QRELS: list[dict[str, Any]] = [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n in range(3)]


def data(root: Path) -> Reader:
    flat = [{key: row[key] for key in ("anchor", "positive", "score")} for row in ROWS]
    last = lambda count: count - 1  # noqa: E731
    files = {
        "x.csv": (as_csv(flat, last), any_of(as_csv, flat)),
        "x.tsv": (as_csv(TEXTS, lambda count: 2), any_of(as_csv, TEXTS)),
        "x.jsonl": (as_lines(ROWS, lambda count: 0), any_of(as_lines, ROWS)),
        "y.jsonl": (as_lines(TEXTS, lambda count: 0), any_of(as_lines, TEXTS)),
        "x.json": (json_bytes(ROWS), any_of(as_json, ROWS)),
        "x.parquet": (
            parquet([*flat[0]], [pyarrow.array([row[name] for row in flat]) for name in flat[0]]),
            as_parquet,
        ),
        "beir/corpus.jsonl": (as_lines(CORPUS, lambda count: 0), any_of(as_lines, CORPUS)),
        "beir/queries.jsonl": (as_lines(QUERIES, lambda count: 0), any_of(as_lines, QUERIES)),
        "beir/qrels/test.tsv": (b"query-id\tcorpus-id\tscore\nq0\td1\t1\nq1\td2\t0\n", any_of(as_csv, QRELS)),
    }

    def read(folder: Path, name: str) -> None:
        for reader in (rows, texts, tasks):
            asked(reader, folder / name)
        (tasks if "beir" in name else read_training_data)(folder / name)

    def rows(path: Path) -> None:
        found = read_training_data(path, skip_bad_rows=True)
        assert {len(values) for values in found.columns.values()} == {len(found)}
        parts = split(found, share=0.5, seed=0)
        held_out_task(found, parts.held_out)
        if found.kind != "labelled texts":
            near_duplicates(*found.texts[:2])
        starter(str(path))

    def texts(path: Path, ids: str | None = None) -> None:
        found = open_texts(path, ids=ids)
        for window in windows(found, 2):
            read_window(found, window)
        if ids is None and len(found.columns) > 1:
            asked(texts, path, found.columns[1])

    def tasks(path: Path) -> None:
        json.dumps(read_task(path.parents[path.parent.name == "qrels"] if "beir" in path.parts else path))

    return Reader(files, read, (IngraftError,))


def manifest(root: Path) -> Reader:
    base, adapter = model(root)
    shutil.rmtree(adapter / "2_Dense")
    plan = merge(adapter, root / "merged", base=base).plan
    private, public = write_keys(root / "keys")
    sign(root / "merged", private_key(private))
    shutil.copytree(root / "merged", root / "as-it-was")
    verifier = public_key(public)
    small = sorted((root / "merged").glob("*.json"))
    files = sound_json(*small, root / "merged" / "model.sig", root=root)

    def read(folder: Path, _: str) -> None:
        merged = folder / "merged"
        checks = [
            verify_signature(merged, verifier),
            *verify_manifest(merged, workers=1),
            *verify_hashes(merged, workers=1),
        ]
        report = VerificationReport(tuple(checks))
        json.dumps(report.to_dict())
        assert all(len(check.where) < 5_000 for check in checks)
        found = read_manifest(merged)
        parts(plan, merged, found)
        _effects(report, plan, merged, found)
        compare_files(*({p.name: p for p in place.glob("*.json")} for place in (merged, folder / "as-it-was")))
        short_card(open_contents(merged))

    return Reader(files, read, (IngraftError,))


if __name__ == "__main__":
    run({"modules": modules, "yaml": yaml_, "card": card, "data": data, "manifest": manifest})
