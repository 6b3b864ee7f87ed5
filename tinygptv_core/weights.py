"""The frozen parts on disk: the **backbones** artifact (`docs/map.md`) read and written, tensor by tensor.

Only safetensors are read, and every tensor is accounted for: one too few or too many is an error.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PhiConfig, PreTrainedTokenizerFast

from tinygptv_core.phi import PostRMSNorm, TinyPhi
from tinygptv_core.plain import ConfigError
from tinygptv_core.qformer import QFormer
from tinygptv_core.tensor_files.weight_files import LazyTensors, Stored, counted, in_memory, open_weights, write_tensors
from tinygptv_core.vision import VisionTower

AnyConfig = Blip2VisionConfig | Blip2QFormerConfig | PhiConfig
Config = TypeVar("Config", Blip2VisionConfig, Blip2QFormerConfig, PhiConfig)

Convert = Callable[[str, nn.Linear], nn.Linear]
"""(name, a Linear with its weights) -> what takes its place."""

NORMS = (nn.LayerNorm, PostRMSNorm)

PARTS = ("vision", "qformer", "llm")
"""The folders of the artifact that hold tensors."""

UNTOLD = ("transformers_version", "dtype", "architectures")
"""What a config of transformers says beside what the part is: these would differ between two honest runs."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of everything.

    Attributes:
        num_queries: how many learned queries the Q-Former has: the tokens that a picture takes.
        projection_widths: of the chain of projections, from the Q-Former's width to the LLM's: (768, 4096, 2560).
    """

    vision: Blip2VisionConfig
    qformer: Blip2QFormerConfig
    num_queries: int
    llm: PhiConfig
    projection_widths: tuple[int, ...]

    def __post_init__(self) -> None:
        widths, ends = self.projection_widths, (self.qformer.hidden_size, self.llm.hidden_size)
        if len(widths) < 2 or (widths[0], widths[-1]) != ends:
            raise ValueError(f"projection_widths is {widths}; it must go from {ends[0]} (Q-Former) to {ends[1]} (LLM)")
        if self.qformer.encoder_hidden_size != self.vision.hidden_size:
            raise ValueError(
                f"the Q-Former reads tokens of width {self.qformer.encoder_hidden_size}, "
                f"but the tower's have {self.vision.hidden_size}"
            )


@dataclass(frozen=True, kw_only=True)
class Backbones:
    """The parts that no stage trains (but for the LLM's norms), the tokenizer, and how wide the projections are."""

    vision: VisionTower
    qformer: QFormer
    llm: TinyPhi
    tokenizer: PreTrainedTokenizerFast
    projection_widths: tuple[int, ...]


def new_backbones(architecture: Architecture, tokenizer: PreTrainedTokenizerFast, seed: int) -> Backbones:
    """Backbones with random weights, drawn as transformers draws them, from `seed` alone; float32.

    Blip2VisionConfig's own `initializer_range` is 1e-10: give one to learn from (0.02).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(architecture, tokenizer)


def _build(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> Backbones:
    return Backbones(
        vision=VisionTower(architecture.vision),
        qformer=QFormer(architecture.qformer, architecture.num_queries),
        llm=TinyPhi(architecture.llm),
        tokenizer=tokenizer,
        projection_widths=architecture.projection_widths,
    )


def save_backbones(backbones: Backbones, folder: Path, dtype: torch.dtype, note: Mapping[str, Any]) -> None:
    """Write the **backbones** artifact into `folder`: the same bytes for the same weights.

    Args:
        dtype: of the tensors on disk. Loading may widen it again.
        note: what `backbones.json` says about where they come from, beside the projections' widths.
    """
    modules = {"vision": backbones.vision.tower, "qformer": backbones.qformer, "llm": backbones.llm}
    configs = (backbones.vision.config, backbones.qformer.config, backbones.llm.config)
    stored = {
        part: {name: in_memory(tensor).to(dtype) for name, tensor in module.state_dict().items()}
        for part, module in modules.items()
    }
    parts = {name: (config, stored[name]) for name, config in zip(PARTS, configs, strict=True)}
    write_backbones(
        folder, parts, backbones.tokenizer, {"projection_widths": list(backbones.projection_widths), **note}
    )


def write_backbones(
    folder: Path,
    parts: Mapping[str, tuple[AnyConfig, Mapping[str, Stored]]],
    tokenizer: PreTrainedTokenizerFast,
    told: Mapping[str, Any],
) -> None:
    """The same from tensors that are read one at a time.

    Args:
        parts: each of `PARTS` -> its configuration and all its tensors, in the dtypes to be written.
        told: what `backbones.json` says; `projection_widths` among it.

    Raises:
        ConfigError: a tensor holds a value that is not finite.
    """
    for part, (config, tensors) in parts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        write_json(folder / part / "config.json", told_by(config))
        write_tensors(folder / part / "model.safetensors", tensors)
    save_tokenizer(folder / "tokenizer", tokenizer)
    write_json(folder / "backbones.json", told)


def told_by(config: AnyConfig) -> dict[str, Any]:
    """What a configuration says of the part, without what says something of the library that wrote it."""
    return {name: value for name, value in config.to_diff_dict().items() if name not in UNTOLD}


def save_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """`tokenizer.json` and `tokenizer_config.json` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(pretty=True))
    write_json(folder / "tokenizer_config.json", tokenizer.special_tokens_map)


def write_json(path: Path, value: Any) -> None:
    """`value` at `path`: the same bytes for the same value."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def load_backbones(folder: Path, dtype: torch.dtype, convert: Convert | None = None) -> Backbones:
    """The backbones of a **backbones** artifact, on the CPU.

    Args:
        dtype: of the tower and the LLM, and of the Q-Former's Linears, to which autocast would bring them each time.
            Norms and the Q-Former's queries stay float32, so that with a 16 bit dtype the model has to run under it.
        convert: applied to each Linear of the tower and the LLM as soon as it is read, so that no more than one is
            there as it was; its name begins with `vision.tower.` or `llm.`.

    Raises:
        ConfigError: a file is missing.
        ValueError: a tensor is missing, unexpected or of another shape; says which.
    """
    architecture = read_architecture(folder)
    parts = without_weights(architecture)
    assign_tensors(
        parts.vision.tower,
        _read_tensors(folder / "vision"),
        dtype,
        str(folder / "vision"),
        _in("vision.tower", convert),
    )
    assign_tensors(
        parts.qformer, _read_tensors(folder / "qformer"), torch.float32, str(folder / "qformer"), narrowing(dtype)
    )
    assign_tensors(parts.llm, _read_tensors(folder / "llm"), dtype, str(folder / "llm"), _in("llm", convert))
    parts.llm.rebuild_rotary()
    return Backbones(
        vision=parts.vision,
        qformer=parts.qformer,
        llm=parts.llm,
        tokenizer=read_tokenizer(folder / "tokenizer"),
        projection_widths=architecture.projection_widths,
    )


def narrowing(dtype: torch.dtype) -> Convert:
    """Brings Linears to `dtype`, one by one."""

    def narrow(_name: str, linear: nn.Linear) -> nn.Linear:
        for name, parameter in [*linear.named_parameters(recurse=False)]:
            setattr(linear, name, nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad))
        return linear

    return narrow


def _in(part: str, convert: Convert | None) -> Convert | None:
    return None if convert is None else lambda name, linear: convert(f"{part}.{name}", linear)


def read_architecture(folder: Path) -> Architecture:
    """The sizes of a **backbones** artifact.

    Raises:
        ConfigError: a file is missing.
        ValueError: the parts do not fit each other.
    """
    return Architecture(
        vision=_read_config(Blip2VisionConfig, folder / "vision"),
        qformer=_read_config(Blip2QFormerConfig, folder / "qformer"),
        num_queries=_num_queries(_read_tensors(folder / "qformer"), folder / "qformer"),
        llm=_read_config(PhiConfig, folder / "llm"),
        projection_widths=tuple(_read_json(folder / "backbones.json")["projection_widths"]),
    )


@dataclass(frozen=True, kw_only=True)
class FrozenModules:
    """The three frozen modules."""

    vision: VisionTower
    qformer: QFormer
    llm: TinyPhi


def without_weights(architecture: Architecture) -> FrozenModules:
    """The modules on torch's `meta` device: names and shapes, and no memory for weights only to be replaced."""
    with torch.device("meta"):
        return FrozenModules(
            vision=VisionTower(architecture.vision),
            qformer=QFormer(architecture.qformer, architecture.num_queries),
            llm=TinyPhi(architecture.llm),
        )


def norm_names(module: nn.Module) -> frozenset[str]:
    """The parameters that belong to norms, and that stay float32 in 16 bit backbones."""
    return frozenset(
        f"{prefix}.{name}"
        for prefix, part in module.named_modules()
        if isinstance(part, NORMS)
        for name, _ in part.named_parameters()
    )


def assign_tensors(
    module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype, where: str, convert: Convert | None = None
) -> None:
    """Give `module` these tensors as its own, one after the other, in `dtype`, its norms in float32.

    Norms between 16 bit layers take and give float32 on every device. CUDA's autocast has it so; the CPU's
    would round what they give.

    Raises:
        ValueError: `tensors` lacks one, has one too many, or one has another shape; `where` says which file.
    """
    check_tensors({name: tensor.shape for name, tensor in module.state_dict().items()}, tensors, where)
    norms = norm_names(module)
    for prefix in [name for name, _ in module.named_modules()]:
        part = module.get_submodule(prefix)
        for name, old in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            full = f"{prefix}.{name}" if prefix else name
            if full in tensors:  # other buffers are computed
                tensor = tensors[full].to(torch.float32 if full in norms else dtype)
                kept = nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor
                setattr(part, name, kept)
        if convert is not None and isinstance(part, nn.Linear):
            module.set_submodule(prefix, convert(prefix, part))
    if dtype != torch.float32:
        for part in module.modules():
            if isinstance(part, nn.LayerNorm):
                part.register_forward_pre_hook(_in_float32)


def _in_float32(_norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(item.float() for item in inputs)


def check_tensors(wanted: Mapping[str, torch.Size], found: Mapping[str, Tensor], where: str) -> None:
    """Check that `found` has exactly the `wanted` tensors, in their shapes.

    Raises:
        ValueError: it has not; names what is missing, unexpected and misshapen.
    """
    faults = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(shape)}"
            for name, shape in sorted(wanted.items())
            if name in found and found[name].shape != shape
        ],
    }
    if told := counted(faults):
        raise ValueError(f"{where} does not hold the {len(wanted)} tensors that are wanted. " + "; ".join(told))


def _num_queries(tensors: Mapping[str, Tensor], folder: Path) -> int:
    if "query_tokens" not in tensors:
        raise ValueError(f"{folder / 'model.safetensors'} has no query_tokens")
    return tensors["query_tokens"].shape[1]


def _read_config(kind: type[Config], folder: Path) -> Config:
    return kind.from_dict(_read_json(folder / "config.json"))


def _read_tensors(folder: Path) -> Mapping[str, Tensor]:
    return LazyTensors(open_weights(_present(folder / "model.safetensors")))


def _read_json(path: Path) -> Any:
    return json.loads(_present(path).read_text())


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """What `save_tokenizer` wrote."""
    special = _read_json(folder / "tokenizer_config.json")
    return PreTrainedTokenizerFast(tokenizer_file=str(_present(folder / "tokenizer.json")), **special)


def _present(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"{path} is missing; a backbones folder has it (docs/map.md)")
    return path
