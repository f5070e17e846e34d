"""`ingraft export`: a merged model in the format of a server, compared answer by answer before it is published.

`--to static` makes another model of it, which is measured and not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from ingraft.cli.format import Format


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The merged model's directory.", show_default=False)],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Directory for the export.", show_default=False)],
    to: Annotated[
        Literal["onnx", "openvino", "static"],
        typer.Option(help="The format. static: another model, distilled with model2vec, of one vector a token."),
    ] = "onnx",
    quantize: Annotated[
        Literal["int8"] | None,
        typer.Option(help="Weights in int8, one scale per channel; what it costs is measured on --data."),
    ] = None,
    pooled: Annotated[
        bool,
        typer.Option("--pooled", help="A graph up to the embedding, for ONNX Runtime without Sentence Transformers."),
    ] = False,
    opset: Annotated[
        int | None, typer.Option(min=18, help="ONNX operator set. Default: torch's.", show_default=False)
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(min=1, help="Of a static model's embeddings. Default: 256, or all there are.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Pairs or scored pairs (CSV, JSONL, Parquet) to measure a quantised or static export on."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="How much of nDCG@10 (scored pairs: Spearman's ρ) quantising or distilling may cost. "
            "Default: 0.01 for int8, no limit for static.",
            show_default=False,
        ),
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="Texts to compare on, one a line. Default: a set of ours.")] = None,
    no_weights: Annotated[bool, typer.Option("--no-weights", help="Leave the torch weights out of OUTPUT.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUTPUT, in one step, if it is not empty.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow code from the model's repository to run.")
    ] = False,
    format: Annotated[Format, typer.Option(help="How to print the result.")] = "human",
) -> None:
    """Write MODEL to OUTPUT with a graph that answers as it does, or nothing. Exit code 1 when an answer differs.

    --to static writes another model instead: what it loses is measured, and with --max-drop refused.
    """
    from ingraft.cli import show, show_export
    from ingraft.errors import UnusableInput
    from ingraft.exporters.run import export as run
    from ingraft.exporters.static import export_static
    from ingraft.exporters.tasks import MAX_DROP
    from ingraft.verification.texts import read_texts

    graph_only = {"--quantize": quantize, "--opset": opset, "--pooled": pooled, "--no-weights": no_weights}
    _check_options(to, static_only={"--dimensions": dimensions}, graph_only=graph_only)
    if max_drop is not None and to != "static" and quantize is None:
        raise UnusableInput(
            "--max-drop limits what quantising may cost; there is none.", hint="Add --quantize int8 --data FILE."
        )
    chosen = read_texts(texts) if texts else None
    with show.progress(format == "human") as progress:
        if to == "static":
            static = export_static(
                model,
                output,
                dimensions=dimensions,
                data=data,
                max_drop=max_drop,
                texts=chosen,
                overwrite=overwrite,
                trust_remote_code=trust_remote_code,
                progress=progress,
            )
            show.json(static.to_dict()) if format == "json" else show_export.static(static)
            return
        result = run(
            model,
            output,
            to=to,
            quantize=quantize,
            opset=opset,
            pooled=pooled,
            weights=not no_weights,
            data=data,
            max_drop=MAX_DROP if max_drop is None else max_drop,
            texts=chosen,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if format == "json":
        show.json(result.to_dict())
    else:
        show_export.result(result)


def _check_options(to: str, *, static_only: Mapping[str, object], graph_only: Mapping[str, object]) -> None:
    """Raise UnusableInput for options that would have no effect."""
    from ingraft.errors import UnusableInput

    for name, value in (graph_only if to == "static" else static_only).items():
        if value:
            what = "a graph, and a static model has none" if to == "static" else "a static model"
            raise UnusableInput(f"{name} belongs to {what}.", hint=f"Leave out {name}, or pass another --to.")
