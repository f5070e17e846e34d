"""The export as one visible pipeline: load → write the graph → compare every answer → measure → publish."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch

from ingraft.errors import CheckFailed, UnusableInput, one_of
from ingraft.exporters.folder import carry, extend_card, write_export_manifest
from ingraft.exporters.graph import Graph, write_graph
from ingraft.exporters.int8 import write_int8
from ingraft.exporters.openvino import openvino_session, write_openvino
from ingraft.exporters.parity import Difference, Run, answers, difference, parity_check, parity_texts, rounding
from ingraft.exporters.result import ExportResult, Variant
from ingraft.exporters.sessions import GRAPHS, Session, answering, onnx_session, require
from ingraft.exporters.source import Source, open_layout, open_source
from ingraft.exporters.speed import texts_per_second
from ingraft.exporters.tasks import MAX_DROP, Measure, drop_check, open_measure
from ingraft.exporters.tokenizer import tokens_check, write_limits
from ingraft.hub import expanded
from ingraft.progress import Progress, Silent
from ingraft.publish import check_output, check_room, clean_up, published
from ingraft.verification.report import Check, VerificationReport
from ingraft.verification.texts import TEXTS

Format: TypeAlias = Literal["onnx", "openvino"]
Quantisation: TypeAlias = Literal["int8"]

_WORK = ".float32"


def export(
    model: str | Path,
    output: str | Path,
    *,
    to: Format = "onnx",
    quantize: Quantisation | None = None,
    opset: int | None = None,
    pooled: bool = False,
    weights: bool = True,
    data: Path | None = None,
    max_drop: float = MAX_DROP,
    texts: Sequence[str] | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write the merged `model` to `output` with its graph in `onnx` or `openvino`, once that answers as the model does.

    quantize  int8 weights; `data` then measures what that costs, and a loss of more than `max_drop` is refused
    pooled    the graph goes on to the embedding, so that it needs no Sentence Transformers to be run
    weights   take the torch weights along, so that the directory also loads without the graph
    texts     to compare on beside a long one and one that is cut off (default: those of `ingraft verify`)
    Raises UnusableInput, or CheckFailed when an answer differs; in both cases nothing is published.
    """
    started, output = time.monotonic(), expanded(output)
    clean_up(output)
    check_output(output, overwrite=overwrite)
    layout = open_layout(model)
    _check_format(to, quantize)
    measure = _measure(quantize, data, layout.model_class or "SentenceTransformer")
    check_output(output, overwrite=overwrite, inputs=(layout.root,))
    shown = progress or Silent()
    shown.begin("model", 0)
    source = open_source(model, trust_remote_code=trust_remote_code)
    shown.end()
    converted = quantize is not None or to != "onnx"
    check_room(output, disk=(4 + 4 * converted + 4 * weights) * source.parameters, memory=0)
    chosen = parity_texts(source.live, texts)
    with published(output, overwrite=overwrite) as folder:
        carry(source, folder, weights=weights)
        write_limits(source, folder)
        final = folder / layout.transformer / GRAPHS[to]
        shown.begin("graph", 0)
        onnx = folder / _WORK / "model.onnx" if converted else final
        graph = write_graph(source, onnx, pooled=pooled, opset=opset)
        shown.end()

        shown.begin("proof", 0)
        reference = answers(source.live, source.model_class, chosen)
        allowed = rounding(source.live, source.model_class, chosen, reference)
        session = onnx_session(graph.path, threads=torch.get_num_threads())
        found, check = _prove(source, session, chosen, reference, allowed, "onnx")
        shown.end()
        shown.begin("speed", 0)
        variants = [_variant(source, "torch float32"), _variant(source, "onnx float32", session, graph.path, found)]
        del session
        shown.end()
        checks = [check, *_alone(source, folder, chosen, pooled)]
        metrics: dict[str, tuple[float, float]] = {}
        if quantize:
            shown.begin("int8", 0)
            session = _quantised(graph, final)
            found = _compare(source, session, chosen, reference)
            assert measure is not None
            metrics, check = _gate(source, session, measure, max_drop)
            variants.append(_variant(source, "onnx int8", session, final, found))
            checks.append(check)
            shown.end()
        if to == "openvino":
            shown.begin("openvino", 0)
            write_openvino(graph.path, final)
            session = openvino_session(final, threads=torch.get_num_threads())
            found, check = _prove(source, session, chosen, reference, allowed, "openvino")
            variants.append(_variant(source, "openvino float32", session, final, found))
            checks.append(check)
            session = openvino_session(final, threads=torch.get_num_threads(), config={})
            default = _compare(source, session, chosen, reference)
            variants.append(_variant(source, "openvino without hint", session, final, default))
            shown.end()
        if converted:
            shutil.rmtree(folder / _WORK)
        result = ExportResult(
            output=output,
            model=source.name,
            model_class=source.model_class,
            architecture=source.architecture,
            parameters=source.parameters,
            format=f"{to} {quantize or 'float32'}",
            graph=final.relative_to(folder).as_posix(),
            inputs=graph.inputs,
            output_name=graph.output,
            opset=graph.opset if to == "onnx" else None,
            texts=len(chosen),
            cosine=found.cosine,
            report=VerificationReport(tuple(checks)),
            variants=tuple(variants),
            seconds=time.monotonic() - started,
            metrics=metrics,
        )
        _publish(source, folder, result)
    return result


def _check_format(to: str, quantize: str | None) -> None:
    one_of("to", to, get_args(Format))
    if quantize is not None:
        one_of("quantize", quantize, get_args(Quantisation))
    require("onnxruntime", "onnx")
    if to == "openvino":
        require("openvino", "openvino")
        if quantize:
            raise UnusableInput("--quantize writes ONNX; OpenVINO has an int8 of its own.", hint="Add --to onnx.")


def _measure(quantize: str | None, data: Path | None, model_class: str) -> Measure | None:
    """The task that gates a quantised export, read before anything slow begins."""
    if quantize is None:
        if data is not None:
            raise UnusableInput("--data measures what quantisation costs; there is none.", hint="Add --quantize int8.")
        return None
    if data is None:
        raise UnusableInput(
            f"{quantize} changes the answers; what that costs has to be measured.",
            hint="Pass pairs or scored pairs with --data FILE, such as those that training held out.",
        )
    return open_measure(data, model_class)


def _prove(
    source: Source, session: Session, texts: Sequence[str], reference: Sequence[Run], allowed: float, runtime: str
) -> tuple[Difference, Check]:
    """Compare every answer; CheckFailed when one differs by more than float32 explains."""
    found = _compare(source, session, texts, reference)
    check = parity_check(found, allowed, runtime)
    if not check.passed:
        raise CheckFailed(
            f"The {runtime} graph does not answer as the model does: {check.value:.3g} of an answer's norm apart, "
            f"allowed {check.limit:.3g} ({check.where}).",
            hint="Nothing was written. Please report this with the model's config.json.",
        )
    return found, check


def _alone(source: Source, folder: Path, texts: Sequence[str], pooled: bool) -> list[Check]:
    """A pooled graph is for readers without Sentence Transformers: CheckFailed when their tokens would be others."""
    if not pooled:
        return []
    check = tokens_check(source, folder, texts)
    if not check.passed:
        raise CheckFailed(
            f"Without Sentence Transformers the tokenizer makes other tokens: {check.where}.",
            hint="Nothing was written. Leave out --pooled, and serve the model with Sentence Transformers.",
        )
    return [check]


def _compare(source: Source, session: Session, texts: Sequence[str], reference: Sequence[Run]) -> Difference:
    with answering(source.live, session):
        return difference(reference, answers(source.live, source.model_class, texts))


def _quantised(graph: Graph, output: Path) -> Session:
    output.parent.mkdir(parents=True, exist_ok=True)
    write_int8(graph.path, output)
    return onnx_session(output, threads=torch.get_num_threads())


def _gate(
    source: Source, session: Session, measure: Measure, max_drop: float
) -> tuple[dict[str, tuple[float, float]], Check]:
    """Metrics in float32 and in int8; CheckFailed when the first falls by more than `max_drop`."""
    before = measure(source.live)
    with answering(source.live, session):
        after = measure(source.live)
    check = drop_check(before, after, max_drop=max_drop, data=measure.data.path)
    if not check.passed:
        raise CheckFailed(
            f"int8 loses {check.value:.4f} of {check.name}, allowed {max_drop:g} ({check.where}).",
            hint="Nothing was written. Export in float32, or allow more with --max-drop.",
        )
    return {name: (before[name], after[name]) for name in before}, check


def _variant(
    source: Source,
    name: str,
    session: Session | None = None,
    graph: Path | None = None,
    found: Difference | None = None,
) -> Variant:
    with answering(source.live, session) if session else nullcontext():
        speed = texts_per_second(source.live, source.model_class, TEXTS)
    nbytes = sum(path.stat().st_size for path in graph.parent.glob(f"{graph.stem}.*")) if graph else source.nbytes
    return Variant(name, nbytes, speed, found.max_abs if found else None)


def _publish(source: Source, folder: Path, result: ExportResult) -> None:
    """Card first: the manifest holds its hash."""
    sentences = [
        f"`{result.graph}` is {source.architecture} as {result.format}, written by "
        "ingraft. Before it was published, its answers to "
        f"{result.texts} texts, alone, in batches and cut off, were compared with the torch model's.",
        f"Inputs: {', '.join(f'`{name}`' for name in result.inputs)}; output: `{result.output_name}`.",
    ]
    if result.format.startswith("openvino"):
        sentences.append(
            "Load it with the settings in `openvino/ov_config.json`: without the float32 hint OpenVINO computes in "
            "bfloat16 where the processor can (the last row of the table)."
        )
    sentences += [f"{name}: {a:.4f} in float32, {b:.4f} in int8." for name, (a, b) in result.metrics.items()]
    extend_card(folder, f"Export: {result.format}", sentences, result.variants)
    section: dict[str, Any] = result.to_dict()
    for name in ("output", "model"):
        section.pop(name)
    write_export_manifest(source, folder, section)
