"""All that a training run can be told, in one place: a field and its docstring make YAML key, flag and help."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from ingraft.errors import UnusableInput
from ingraft.training.keys import plain


@dataclass(frozen=True)
class LoraSettings:
    """The matrices of LoRA and of the methods that start from it."""

    r: int | Literal["auto"] = "auto"
    """Rank r of the LoRA matrices; auto chooses by the number of rows."""

    alpha: int | Literal["auto"] = "auto"
    """LoRA scaling: the delta is multiplied with alpha / r; auto is 4 r."""

    dropout: float = 0.1
    """Dropout in front of the LoRA matrices, while training."""


@dataclass(frozen=True)
class PromptSettings:
    """What goes before a text; saved with the adapter, so that the model puts it there when it is used."""

    query: str | None = None
    """Prompt before anchors; default: the base model's own."""

    document: str | None = None
    """Prompt before positives and negatives; default: the base model's own."""


@dataclass(frozen=True)
class MiningSettings:
    """Hard negatives: texts that the base model finds similar to a query and that are no answers to it."""

    negatives: int = 0
    """Hard negatives to mine for each pair, with the base model, before training; 0 for none."""

    range_min: int = 0
    """Skip this many of the most similar texts, which may be answers that nobody marked."""

    range_max: int = 50
    """Look no further than this many of the most similar texts."""

    relative_margin: float = 0.05
    """A negative is less similar to the query than the positive, by this share of the positive's similarity."""

    sampling: Literal["top", "random"] = "top"
    """Take the most similar of those that are left, or draw among them."""


@dataclass(frozen=True)
class CheckpointSettings:
    """What is kept of a run while it goes on, in a directory beside the output."""

    every: int = 500
    """Steps between two checkpoints of the adapter, which --resume continues from; 0 for none."""

    keep: int = 2
    """Checkpoints to keep; the best one is never among those that go."""

    best: bool = False
    """Measure at each checkpoint, on rows set aside for that, and take the best one in place of the last."""


@dataclass(frozen=True)
class DatasetSettings:
    """A further data set; each setting means what it means for the first."""

    data: str
    """Rows to train on as well."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Role → column."""

    subset: str | None = None
    """Subset of a data set."""

    split: str = "train"
    """Split of a data set."""

    loss: str = "auto"
    """Its own loss."""

    loss_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of that loss."""

    max_pairs: int | None = None
    """Use at most this many of its rows."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to fine-tune a Sentence Transformers model with an adapter."""

    model: str
    """Base model: a directory, or an id on the Hugging Face Hub."""

    data: str
    """Rows to train on: a file (CSV, TSV, JSONL, JSON, Parquet), a BEIR directory, a datasets directory or Hub id."""

    output: Path
    """Directory for the adapter."""

    model_type: Literal["auto", "SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder"] = "auto"
    """Class of Sentence Transformers to train; auto takes the one that the base was saved with."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Role → column, where names do not tell: anchor, positive, negative; sentence1, sentence2, score; text, label; and
    group, whose rows are held out together."""

    subset: str | None = None
    """Subset of a data set of the Hub."""

    split: str = "train"
    """Split of a data set or BEIR directory to train on."""

    test: str | None = None
    """Rows to measure on, in place of held-out ones; read as data is, and a BEIR directory brings its own."""

    more_data: tuple[DatasetSettings, ...] = ()
    """Further data sets to train on in turn, each with its own data, columns, subset, split, loss and max_pairs."""

    loss: str = "auto"
    """Loss of Sentence Transformers, by name; auto takes the one of its loss table for such rows."""

    loss_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the loss, such as scale or margin."""

    mini_batch_size: int | Literal["auto", "none"] = "auto"
    """Embed this many rows at a time, with the cached form of the loss: large batches in little memory. auto does it
    where the batch does not fit into the memory that is free, none never."""

    matryoshka: tuple[int, ...] = ()
    """Dimensions to which embeddings may be cut: the loss is taken at each of them, and at the whole."""

    prompts: PromptSettings = field(default_factory=PromptSettings)

    mining: MiningSettings = field(default_factory=MiningSettings)

    epochs: float = 1.0
    """Passes over the training rows."""

    learning_rate: float | Literal["auto"] = "auto"
    """Highest learning rate; it rises over the first tenth of the steps and then falls to zero. auto chooses by the
    size of the base."""

    batch_size: int = 64
    """Rows per step, of all processes together. For pairs, the others of a batch are the wrong answers: larger is
    better."""

    method: str = "lora"
    """PEFT method: lora, rslora, dora, pissa, olora, or any other that can be merged (ingraft methods), by its type."""

    lora: LoraSettings = field(default_factory=LoraSettings)

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The method's own arguments, as PEFT's config class names them."""

    modules_to_save: tuple[str, ...] = ()
    """Modules to train whole and to save with the adapter; a head that the base lacks is always among them."""

    target_modules: str = "auto"
    """Names of the layers to adapt, with commas between; auto takes what the method is for: all linear layers of all
    blocks, or their norms."""

    max_pairs: int | None = None
    """Use at most this many of the rows, drawn at random."""

    holdout: float = 0.1
    """Share of the rows that is not trained on but measured before and after; 0 for none."""

    bf16: bool | Literal["auto"] = "auto"
    """Compute in bfloat16 where that loses little; the adapter's weights stay float32. auto does it on a GPU that has
    it, where the batch does not fit otherwise; never on a CPU."""

    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Compute what the backward pass needs a second time: less memory, about a third more time. auto does it where
    nothing else fits."""

    quantize: Literal["none", "nf4"] = "none"
    """Load the base packed in four bits, with double quantisation (QLoRA): an eighth of the memory of float32."""

    base_precision: Literal["original", "dequantized"] = "original"
    """Weights that merge takes after quantize: those of the base as it is stored, or those that the training saw."""

    general: str = "auto"
    """What the model should not forget: scored pairs, measured before and after; auto takes a small set of everyday
    English, none switches it off."""

    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)

    resume: bool = False
    """Continue the run that was stopped, from its last checkpoint."""

    merge: Path | None = None
    """Merge the adapter into its base afterwards, proven, as a plain model in this directory."""

    report: Path | None = None
    """Write what was trained, the learning curve and the figures before and after to this file, as an HTML page."""

    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Trackers to send losses and metrics to; TensorBoard's files lie beside the output, in <output>-logs."""

    adapter_name: str = "default"
    """Name of the adapter in PEFT, while training."""

    seed: int = 0
    """Seed of the split, the adapter's initial weights, the order of the rows and dropout."""

    skip_bad_rows: bool = False
    """Leave out rows that cannot be used, instead of refusing the file."""

    overwrite: bool = False
    """Replace an adapter that is already in the output directory."""

    trust_remote_code: bool = False
    """Run Python code that comes with the base model."""

    @property
    def data_names(self) -> tuple[str, ...]:
        """Every file, directory or data set that is named: to train on, to measure on, not to be forgotten."""
        general = None if self.general in ("auto", "none") else self.general
        named = (self.data, self.test, general, *(more.data for more in self.more_data))
        return tuple(name for name in named if name is not None)


def command_line(config: TrainingConfig) -> str:
    """The `ingraft train` that has this config, with the settings that are not the defaults."""
    return shlex.join(["ingraft", "train", *_words(config, "")])


def check_settings(config: TrainingConfig) -> None:
    """UnusableInput naming the first setting that is out of range."""
    _require(config.epochs > 0, "epochs", config.epochs, "more than 0")
    rate = config.learning_rate
    _require(rate == "auto" or 0 < rate < 1, "learning-rate", rate, "between 0 and 1, or auto")
    _require(config.batch_size >= 2, "batch-size", config.batch_size, "2 or more, because rows are compared")
    for name, value in (("lora.r", config.lora.r), ("lora.alpha", config.lora.alpha)):
        _require(value == "auto" or value >= 1, name, value, "1 or more, or auto")
    _require(0 <= config.lora.dropout < 1, "lora.dropout", config.lora.dropout, "from 0 to below 1")
    _require(config.max_pairs is None or config.max_pairs >= 2, "max-pairs", config.max_pairs, "2 or more")
    _require(
        config.mini_batch_size in ("auto", "none") or int(config.mini_batch_size) >= 1,
        "mini-batch-size",
        config.mini_batch_size,
        "1 or more, auto or none",
    )
    _require(all(size >= 1 for size in config.matryoshka), "matryoshka", _text(config.matryoshka), "sizes of 1 or more")
    mining = config.mining
    _require(mining.negatives >= 0, "mining.negatives", mining.negatives, "0 or more")
    _require(mining.range_min >= 0, "mining.range-min", mining.range_min, "0 or more")
    fewest = mining.range_min + max(mining.negatives, 1)
    _require(mining.range_max >= fewest, "mining.range-max", mining.range_max, f"{fewest} or more")
    _require(0 <= config.holdout < 1, "holdout", config.holdout, "a share from 0 to below 1")
    _require(config.checkpoints.every >= 0, "checkpoints.every", config.checkpoints.every, "0 or more")
    _require(config.checkpoints.keep >= 1, "checkpoints.keep", config.checkpoints.keep, "1 or more")
    best = config.checkpoints.best and config.checkpoints.every == 0
    _require(not best, "checkpoints.every", config.checkpoints.every, "1 or more, to find the best one")
    packed = config.quantize != "none" or config.base_precision == "original"
    _require(packed, "base-precision", config.base_precision, "original, unless --quantize packs the base")
    named = config.adapter_name.isidentifier()
    _require(named, "adapter-name", config.adapter_name, "a name of letters, digits and underscores")
    _require(0 <= config.seed < 2**32, "seed", config.seed, "from 0 to 4294967295")


def _words(config: Any, prefix: str) -> list[str]:
    words = []
    for entry in fields(config):
        value, name = getattr(config, entry.name), f"{prefix}{entry.name.replace('_', '-')}"
        if is_dataclass(value):
            words += _words(value, f"{name}.")
        elif value is True:
            words.append(f"--{name}")
        elif value is False and entry.default == "auto":
            words.append(f"--no-{name}")
        elif value != (entry.default if entry.default_factory is MISSING else entry.default_factory()):
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else _text(value)]
    return words


def _text(value: Any) -> str:
    """A value as a flag: lists and mappings as YAML, of which JSON is a part."""
    return json.dumps(plain(value), ensure_ascii=False) if isinstance(value, (tuple, Mapping)) else str(value)


def _require(holds: bool, flag: str, value: Any, expected: str) -> None:
    if not holds:
        raise UnusableInput(f"--{flag} is {value}; expected {expected}.")
