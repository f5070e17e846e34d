"""`ingraft embed`: a file of texts into a file of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ingraft.cli.format import Format


def embed(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The merged model's directory, or an export.", show_default=False)
    ],
    texts: Annotated[Path, typer.Argument(metavar="INPUT", help="Parquet, JSONL or CSV.", show_default=False)],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.parquet", help="Ids and vectors.", show_default=False)],
    column: Annotated[str | None, typer.Option(help="Column with the texts. Default: text, or the only one.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column with ids. Default: the number of the row.")] = None,
    prompt_name: Annotated[str | None, typer.Option(help="Which of the model's prompts. Default: its own.")] = None,
    precision: Annotated[
        Literal["float32", "float16", "int8", "binary"], typer.Option(help="How vectors are stored.")
    ] = "float32",
    backend: Annotated[
        Literal["torch", "onnx", "openvino"], typer.Option(help="What runs the model; a graph comes from export.")
    ] = "torch",
    engine: Annotated[Literal["local", "ray"], typer.Option(help="This process, or a Ray cluster.")] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers of Ray. Default: one for each CPU.", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in a batch.")] = 32,
    window: Annotated[
        int, typer.Option(min=2, help="Rows that are sorted by length together; a kill loses no more.")
    ] = 4096,
    device: Annotated[str | None, typer.Option(help="Device of torch. Default: the fastest there is.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT if it exists.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what a stopped run has done.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow code from the model's repository to run.")
    ] = False,
    format: Annotated[Format, typer.Option(help="How to print the result.")] = "human",
) -> None:
    """Embed the texts of INPUT with MODEL, as its encode does. Stopped or killed, the same command goes on."""
    from ingraft.cli import show, show_embed
    from ingraft.embedding.run import embed as run

    with show_embed.progress(format == "human") as observe:
        result = run(
            model,
            texts,
            output,
            column=column,
            id_column=id_column,
            prompt_name=prompt_name,
            precision=precision,
            backend=backend,
            engine=engine,
            workers=workers,
            batch_size=batch_size,
            window=window,
            device=device,
            overwrite=overwrite,
            restart=restart,
            trust_remote_code=trust_remote_code,
            observe=observe,
        )
    if format == "json":
        show.json(result.to_dict())
    else:
        show_embed.result(result)
