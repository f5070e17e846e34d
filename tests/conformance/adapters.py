"""Adapters as PEFT and Sentence Transformers make and save them, and the live models that they were saved from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.tuners.lora import BdLoraConfig, KasaConfig, MontecloraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conformance.architectures import ARCHITECTURES, Architecture
from helpers.models import new_folder, quiet

Make = Callable[[Architecture, "tuple[str, ...]"], Any]  # an architecture and its target modules → a PeftConfig


@dataclass(frozen=True)
class Tuner:
    """One way to train, with settings that fit the small models.

    row      name of the row of METHODS that merges it
    noise    float32 units, of a row's largest number, that a merge may be off before it rounds: about twice as many
             as were measured
    size     how far training moves: some methods need more of it to have an effect
    remains  trained on what remains of the base, which is rounded to the base's dtype
    """

    row: str
    make: Make
    noise: float = 4.0
    size: float = 1.0
    remains: bool = False


def _config(config: type[Any], **options: Any) -> Make:
    return lambda architecture, targets: config(target_modules=list(targets), **options)


def _lora(**options: Any) -> Make:
    return _config(peft.LoraConfig, **{"r": 4, "lora_alpha": 8, **options})


def _block_diagonal(architecture: Architecture, targets: tuple[str, ...]) -> Any:
    sides = BdLoraConfig(list(targets[:1]), list(targets[1:]), nblocks=2, match_strict=False)
    return peft.LoraConfig(target_modules=list(targets), r=4, lora_alpha=8, use_bdlora=sides)


def _ia3(architecture: Architecture, targets: tuple[str, ...]) -> Any:
    feedforward = [name for name in targets if name in architecture.feedforward]
    return peft.IA3Config(target_modules=list(targets), feedforward_modules=feedforward)


_NEEDS_BIAS = ("BEFT",)

TUNERS: Mapping[str, Tuner] = {
    "lora": Tuner("LoRA", _lora(), noise=1.5),
    "rslora": Tuner("rsLoRA", _lora(use_rslora=True), noise=1.5),
    "dora": Tuner("DoRA", _lora(use_dora=True)),
    "bdlora": Tuner("BD-LoRA", _block_diagonal, noise=1.5),
    "kasa": Tuner("KaSA", _lora(kasa_config=KasaConfig()), noise=64, remains=True),
    "pissa": Tuner("PiSSA", _lora(init_lora_weights="pissa"), noise=10, remains=True),
    "olora": Tuner("OLoRA", _lora(init_lora_weights="olora"), noise=10, remains=True),
    "pissa-dora": Tuner(
        "PiSSA or OLoRA with another variant",
        _lora(init_lora_weights="pissa", use_dora=True),
        noise=10,
        remains=True,
    ),
    "velora": Tuner("VeLoRA", _lora(velora_config=peft.VeloraConfig(num_groups=4)), noise=1.5),
    "monteclora": Tuner(
        "MonteCLoRA", _lora(monteclora_config=MontecloraConfig(num_samples=2, buffer_size=2)), noise=1.5
    ),
    "loha": Tuner("LoHa", _config(peft.LoHaConfig, r=4, alpha=8), size=3),
    "lokr": Tuner("LoKr", _config(peft.LoKrConfig, r=4, alpha=8), size=2),
    "lokr-whole": Tuner("LoKr", _config(peft.LoKrConfig, r=64, alpha=8), size=5),
    "delora": Tuner("DeLoRA", _config(peft.DeloraConfig, r=4), noise=8),
    "gralora": Tuner("GraLoRA", _config(peft.GraloraConfig, r=8, alpha=16, gralora_k=2, hybrid_r=2)),
    "glora": Tuner("GLoRA", _config(peft.GloraConfig, r=4)),
    "glora-without-c": Tuner("GLoRA without C", _config(peft.GloraConfig, r=4, config_C="none", config_D_E="vector")),
    "hira": Tuner("HiRA", _config(peft.HiraConfig, r=4), size=5),
    "miss": Tuner("MiSS", _config(peft.MissConfig, r=8)),
    "miss-bat": Tuner('MiSS with init_weights="bat"', _config(peft.MissConfig, r=8, init_weights="bat")),
    "vera": Tuner("VeRA", _config(peft.VeraConfig, r=8), size=4),
    "vera-seed": Tuner(
        "VeRA, projections from the seed",
        _config(peft.VeraConfig, r=8, save_projection=False, projection_prng_key=3),
        size=4,
    ),
    "pvera": Tuner("PVeRA", _config(peft.PveraConfig, r=8), size=4),
    "pvera-seed": Tuner(
        "PVeRA, projections from the seed", _config(peft.PveraConfig, r=8, save_projection=False), size=4
    ),
    "randlora": Tuner("RandLoRA", _config(peft.RandLoraConfig, r=4, randlora_alpha=8)),
    "randlora-seed": Tuner(
        "RandLoRA, projections from the seed",
        _config(peft.RandLoraConfig, r=4, randlora_alpha=8, save_projection=False),
    ),
    "vblora": Tuner("VB-LoRA", _config(peft.VBLoRAConfig, r=4, num_vectors=16, vector_length=8), size=5),
    "vblora-topk": Tuner(
        "VB-LoRA",
        _config(peft.VBLoRAConfig, r=4, num_vectors=16, vector_length=8, save_only_topk_weights=True),
        size=5,
    ),
    "tinylora": Tuner("TinyLoRA", _config(peft.TinyLoraConfig, r=2, u=16)),
    "unilora": Tuner("Uni-LoRA", _config(peft.UniLoraConfig, r=4, theta_d_length=64, save_indices=True), size=20),
    "unilora-seed": Tuner(
        "Uni-LoRA, indices from the seed", _config(peft.UniLoraConfig, r=4, theta_d_length=64), size=20
    ),
    "adalora": Tuner("AdaLoRA", _config(peft.AdaLoraConfig, init_r=4, target_r=2, total_step=10, lora_alpha=8), size=5),
    "oft": Tuner("OFT", _config(peft.OFTConfig, oft_block_size=8)),
    "boft": Tuner("BOFT", _config(peft.BOFTConfig, boft_block_size=4), noise=8),
    "hra": Tuner("HRA", _config(peft.HRAConfig, r=4), noise=10),
    "road": Tuner("RoAd", _config(peft.RoadConfig, variant="road_2", group_size=8)),
    "ia3": Tuner("(IA)³", _ia3),
    "ln-tuning": Tuner("LayerNorm tuning", _config(peft.LNTuningConfig), noise=0),
    "tokens": Tuner(
        "Trainable tokens", _config(peft.TrainableTokensConfig, token_indices=[7, 60, 11, 12, 90, 91, 92]), noise=0
    ),
    "osf": Tuner("OSF", _config(peft.OSFConfig, effective_rank=8), noise=10, remains=True),
    "psoft": Tuner("PSOFT", _config(peft.PsoftConfig, r=8), noise=8),
    "psoft-random": Tuner("PSOFT with a random SVD", _config(peft.PsoftConfig, r=8, psoft_svd="lowrank"), noise=8),
    "fourierft": Tuner("FourierFT", _config(peft.FourierFTConfig, n_frequency=60, scaling=30.0), noise=8),
    "waveft": Tuner("WaveFT", _config(peft.WaveFTConfig, n_frequency=80, scaling=5.0)),
    "waveft-coif4": Tuner(
        "WaveFT with another wavelet",
        _config(peft.WaveFTConfig, n_frequency=80, scaling=5.0, wavelet_family="coif4"),
    ),
    "c3a": Tuner("C3A", _config(peft.C3AConfig, block_size=8)),
    "shira": Tuner("SHiRA", _config(peft.ShiraConfig, r=4, random_seed=3)),
    "supertuning": Tuner("Super-Tuning", _config(peft.SupertuningConfig, sparsity=0.9, r=2)),
    "supertuning-places": Tuner(
        "Super-Tuning, places from the base",
        _config(peft.SupertuningConfig, sparsity=0.9, save_precomputed_indices=False),
    ),
    "beft": Tuner("BEFT", _config(peft.BeftConfig)),
    "deft": Tuner("DEFT", _config(peft.DeftConfig, r=4), noise=8),
    "peanut": Tuner("PEANuT", _config(peft.PeanutConfig, r=4)),
    "peanut-deep": Tuner("PEANuT with hidden layers", _config(peft.PeanutConfig, r=4, depth=2)),
    "adamss": Tuner("AdaMSS", _config(peft.AdamssConfig, r=8, num_subspaces=2, subspace_rank=2)),
    "frod": Tuner("FRoD", _config(peft.FrodConfig, sparse_rate=0.1, progressbar=False), noise=20, remains=True),
}


def lora(**options: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **options})


def config_for(tuner: str, architecture: str, kind: str = "linear", **changes: Any) -> Any:
    """The PeftConfig of a tuner, on all layers of one kind of an architecture."""
    made, how = ARCHITECTURES[architecture], TUNERS[tuner]
    targets = {
        "linear": made.linear,
        "conv1d": made.linear,
        "norm": made.norms,
        "embedding": (made.embedding,),
        "conv": made.convolutions,
    }[kind]
    if how.row in _NEEDS_BIAS and architecture.startswith("qwen"):
        targets = ("q_proj", "k_proj", "v_proj")
    if how.row == "OLoRA" and kind == "conv1d":
        targets = made.square  # PEFT cannot start it on others
    with quiet():
        config = how.make(made, targets)
        for name, value in changes.items():
            setattr(config, name, value)
    return config


@dataclass(frozen=True)
class Trained:
    """An adapter on disk, and the model that it was saved from.

    live    the transformers model with the adapter in it
    whole   what computes the outputs: a Sentence Transformers model, or `live`
    before  the outputs' model without the adapter
    """

    folder: Path
    live: nn.Module
    whole: Any
    before: Any


@quiet()
def by_peft(
    base: Path, config: Any, *, auto: str = "AutoModel", name: str = "default", size: float = 1.0, **save: Any
) -> Trained:
    """Trained on a transformers model and saved by PEFT. `save`: arguments for that."""
    load = getattr(transformers, auto).from_pretrained
    torch.manual_seed(0)
    model = peft.get_peft_model(load(base, dtype="auto"), config, adapter_name=name)
    disturb(model, size=size)
    return save_by_peft(model, model.get_base_model(), load(base, dtype="auto").eval(), **save)


def save_by_peft(model: Any, live: Any, before: Any, **save: Any) -> Trained:
    """Save what get_peft_model made."""
    folder = new_folder("adapter")
    model.save_pretrained(folder, **save)
    return Trained(folder, live.eval(), live, before)


@quiet()
def by_sentence_transformers(
    base: Path, config: Any, *, model_class: str = "SentenceTransformer", size: float = 1.0
) -> Trained:
    """Trained on a Sentence Transformers model, its Dense module along with it, and saved by it."""
    import sentence_transformers

    load = getattr(sentence_transformers, model_class)
    torch.manual_seed(0)
    model = load(str(base), device="cpu")
    model.add_adapter(config)
    disturb(model[0], size=size)
    for module in model.children():
        if type(module).__name__ == "Dense":
            disturb(module)
    folder = new_folder("adapter")
    model.save_pretrained(str(folder))
    return Trained(folder, model[0].model.eval(), model.eval(), load(str(base), device="cpu").eval())


def disturb(model: nn.Module, *, seed: int = 0, size: float = 1.0) -> None:
    """What training might do: move every trainable number, so that none is zero or where it began."""
    generator = torch.Generator().manual_seed(seed)
    moved = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # AdaLoRA's rank is trainable on a half-precision base, by accident, and is not saved.
            if parameter.requires_grad and ".ranknum." not in name:
                usual = max(float(parameter.double().square().mean().sqrt()), 0.1)
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_((0.3 * usual * size * noise).to(parameter.dtype))
                moved += 1
    assert moved


def change_tensors(adapter: Path, change: Callable[[str, Tensor], tuple[str, Tensor]]) -> None:
    """Change keys and values of an adapter's file."""
    file = adapter / "adapter_model.safetensors"
    changed = dict(change(key, value) for key, value in load_file(file).items())
    save_file({key: value.contiguous() for key, value in changed.items()}, file, metadata={"format": "pt"})
