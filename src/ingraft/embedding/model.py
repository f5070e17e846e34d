"""The model that embeds: torch, or an exported graph in its place, without loading torch's weights for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ingraft.adapted.quiet import quiet
from ingraft.errors import UnusableInput, first_line
from ingraft.exporters.openvino import openvino_session
from ingraft.exporters.sessions import GRAPHS, Session, onnx_session, use_session
from ingraft.exporters.source import open_layout
from ingraft.layout import Layout

Backend: TypeAlias = Literal["torch", "onnx", "openvino"]


@dataclass(frozen=True)
class Embedder:
    """A loaded model and how it is asked."""

    live: Any
    prompt: str | None
    batch_size: int

    @property
    def dimension(self) -> int:
        return int(self.live.get_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> Any:
        """What `encode(texts, prompt=…)` returns: float32 [n, dimension], in the order of `texts`.

        Batches are of texts with as many tokens, as near as can be: what is padded is computed for nothing.
        """
        import numpy

        order = sorted(range(len(texts)), key=self._lengths(texts).__getitem__, reverse=True)
        vectors = numpy.empty((len(texts), self.dimension), dtype=numpy.float32)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            vectors[batch] = self.live.encode(
                [texts[row] for row in batch],
                prompt=self.prompt,
                batch_size=len(batch),
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        return vectors

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        tokenizer = self.live[0].tokenizer
        if not getattr(tokenizer, "is_fast", False):  # none, a slow one, or one of the library `tokenizers`
            return [len(text) for text in texts]
        tokens = tokenizer(
            list(texts),
            padding=False,
            truncation=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return [len(ids) for ids in tokens["input_ids"]]


def check_model(model: str | Path, backend: Backend) -> Layout:
    """The layout of a model that can embed with `backend`; UnusableInput says what is missing."""
    layout = open_layout(model, static=backend == "torch")
    if layout.model_class not in (None, "SentenceTransformer"):
        raise UnusableInput(f"{layout.root} is a {layout.model_class}; only dense vectors can be written.")
    if backend != "torch" and not (graph := graph_of(layout, backend)).is_file():
        raise UnusableInput(
            f"{layout.root} has no graph for {backend}: {graph} does not exist.",
            hint=f"Run: ingraft export {layout.root} exported --to {backend}",
        )
    return layout


def graph_of(layout: Layout, backend: Backend) -> Path:
    return layout.transformer_folder / GRAPHS[backend]


def load_embedder(
    layout: Layout,
    *,
    backend: Backend,
    prompt_name: str | None,
    batch_size: int,
    device: str | None,
    trust_remote_code: bool,
) -> Embedder:
    """Load the model. UnusableInput when it cannot be loaded, or has no prompt of that name."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UnusableInput(
            "Embedding needs sentence-transformers.", hint="Install it with: pip install 'ingraft[embed]'"
        ) from None
    try:
        with quiet(), _without_weights(backend != "torch"):
            live = SentenceTransformer(
                str(layout.root),
                device=device if backend == "torch" else "cpu",
                trust_remote_code=trust_remote_code,
                local_files_only=True,
            ).eval()
    except Exception as error:  # whatever a model's class raises for its files
        reason = first_line(error)
        hint = f"Leave out --device {device}: torch then takes the fastest that it has." if device else ""
        raise UnusableInput(f"{layout.root} cannot be loaded: {reason}", hint=hint) from None
    if backend != "torch":
        use_session(live, _session(layout, backend))
    return Embedder(live, _prompt(live, layout, prompt_name), batch_size)


def _session(layout: Layout, backend: Backend) -> Session:
    import torch

    start = onnx_session if backend == "onnx" else openvino_session
    return start(graph_of(layout, backend), threads=torch.get_num_threads())


def _prompt(live: Any, layout: Layout, name: str | None) -> str | None:
    """The text of the prompt; the model's default one where none is named."""
    prompts: dict[str, str] = live.prompts
    chosen = name if name is not None else live.default_prompt_name
    if chosen is None:
        return None
    if chosen not in prompts:
        known = f"Its prompts are: {', '.join(sorted(prompts))}" if prompts else "It has none."
        raise UnusableInput(f"{layout.root} has no prompt called {chosen}.", hint=known)
    return prompts[chosen]


@contextmanager
def _without_weights(wanted: bool) -> Iterator[None]:
    """Transformers are built inside the block as shells: class and config, no weight is read or held."""
    if not wanted:
        yield
        return
    import torch
    from sentence_transformers.base.modules.transformer import TRANSFORMER_TASK_TO_AUTO_MODEL, Transformer

    def shell(_: Any, name: str, task: Any, config: Any, *rest: Any, **settings: Any) -> Any:
        trusted = settings.get("trust_remote_code", False)
        with torch.device("meta"):
            model = TRANSFORMER_TASK_TO_AUTO_MODEL[task].from_config(config, trust_remote_code=trusted)
        for module in model.modules():
            module._parameters.clear()
            module._buffers.clear()
        # transformers tells a model's device and dtype by its first parameter.
        model.register_parameter("shell", torch.nn.Parameter(torch.empty(0), requires_grad=False))
        return model

    load = Transformer._load_model
    Transformer._load_model = shell
    try:
        yield
    finally:
        Transformer._load_model = load
