"""`ingraft export`: a merged model in the format of a server, compared answer by answer before it is published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ingraft.cli.format import Format


def export(
    model: Annotated[str, typer.Argument(help="The merged model's directory.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="Directory for the export.", show_default=False)],
    to: Annotated[Literal["onnx", "openvino"], typer.Option(help="The format.")] = "onnx",
    quantize: Annotated[
        Literal["int8"] | None,
        typer.Option(help="Weights in int8, one scale per channel; what it costs is measured on --data."),
    ] = None,
    pooled: Annotated[
        bool,
        typer.Option("--pooled", help="A graph up to the embedding, for ONNX Runtime without Sentence Transformers."),
    ] = False,
    opset: Annotated[
        int | None, typer.Option(min=1, help="ONNX operator set. Default: torch's.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Pairs or scored pairs (CSV, JSONL, Parquet) that a quantised export is measured on."),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(min=0.0, help="How much of nDCG@10 (scored pairs: Spearman's ρ) quantisation may cost.")
    ] = 0.01,
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
    """Write MODEL to OUTPUT with a graph that answers as it does, or nothing. Exit code 1 when an answer differs."""
    from ingraft.cli import show, show_export
    from ingraft.exporters.run import export as run
    from ingraft.verification.texts import read_texts

    chosen = read_texts(texts) if texts else None
    with show.progress(format == "human") as progress:
        result = run(
            model,
            output,
            to=to,
            quantize=quantize,
            opset=opset,
            pooled=pooled,
            weights=not no_weights,
            data=data,
            max_drop=max_drop,
            texts=chosen,
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if format == "json":
        show.json(result.to_dict())
    else:
        show_export.result(result)
