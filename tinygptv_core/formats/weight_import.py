"""Weights that people bring, made into our artifacts: **backbones** and **checkpoint** (docs/map.md).

Tensors are read, renamed and written one at a time, and every one of a file is accounted for before the first
is written.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from torch import nn
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PhiConfig, PreTrainedTokenizerFast

from tinygptv_core.checkpoint import save_stored
from tinygptv_core.checkpoint_form import CheckpointForm, read_form
from tinygptv_core.formats import published
from tinygptv_core.formats.coverage import Coverage, WeightLayout, match_tensors
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError, plain
from tinygptv_core.tensor_files.weight_files import Stored, open_checkpoint, open_weights
from tinygptv_core.tensor_files.weight_folders import UNTRAINED_NORMS, read_json
from tinygptv_core.trainable import trainable_parameters
from tinygptv_core.weights import AnyConfig, Architecture, norm_names, without_weights, write_backbones

_EVERYWHERE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
CHECKED_VISION = (*_EVERYWHERE, "patch_size", "image_size", "layer_norm_eps")
CHECKED_QFORMER = (*_EVERYWHERE, "cross_attention_frequency", "encoder_hidden_size", "layer_norm_eps")
CHECKED_LLM = (*_EVERYWHERE, "layer_norm_eps", "rope_type", "rope_theta", "rope_scaling", "partial_rotary_factor")
"""What a config.json must agree in: the shapes of tensors tell neither heads nor what is computed with them."""


@dataclass(frozen=True, kw_only=True)
class WeightPaths:
    """Where the three parts lie: a file, or a folder as Hugging Face has it. Two may be the same."""

    vision: Path
    qformer: Path
    llm: Path


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A part's files and how they name its tensors."""

    source: Path
    files: Mapping[str, Stored]
    layout: WeightLayout


def import_backbones(
    folder: Path, sources: WeightPaths, architecture: Architecture, dtype: torch.dtype
) -> tuple[Coverage, ...]:
    """Write the **backbones** artifact into `folder`.

    Args:
        dtype: of the tower and the language model. Their norms, and the Q-Former, are written in float32, as
            they are used.

    Returns:
        The account of each part.

    Raises:
        ConfigError: a file is missing, cut off, hostile or another one than is wanted; says which and what helps.
    """
    tokenizer = _published_tokenizer(sources.llm, architecture.llm)
    tensors, coverages = _gathered(_opened(sources, architecture), architecture)
    wide = {name: dtype if name != "qformer" else torch.float32 for name in tensors}
    modules = _modules(architecture)
    written = {name: _in_dtypes(tensors[name], modules[name], wide[name]) for name in tensors}
    told = {"projection_widths": list(architecture.projection_widths)}
    write_backbones(folder, _with_configs(written, architecture), tokenizer, told)
    return coverages


def _opened(sources: WeightPaths, architecture: Architecture) -> dict[str, _Opened]:
    """The three parts, each source opened once: what cannot be mapped is in memory as long as it is open."""
    paths = dict.fromkeys((sources.vision, sources.qformer, sources.llm))
    files = {path: open_weights(path) for path in paths}
    return {
        "vision": _vision(sources, files, architecture.vision),
        "qformer": _qformer(sources.qformer, files[sources.qformer], architecture.qformer),
        "llm": _llm(sources.llm, files[sources.llm], architecture.llm),
    }


def _modules(architecture: Architecture) -> dict[str, nn.Module]:
    parts = without_weights(architecture)
    return {"vision": parts.vision.tower, "qformer": parts.qformer, "llm": parts.llm}


def _gathered(
    opened: Mapping[str, _Opened], architecture: Architecture
) -> tuple[dict[str, dict[str, Stored]], tuple[Coverage, ...]]:
    """All tensors of all parts, accounted for."""
    modules = _modules(architecture)
    tensors: dict[str, dict[str, Stored]] = {}
    coverages: list[Coverage] = []
    for name, part in opened.items():
        wanted = {key: tensor.shape for key, tensor in modules[name].state_dict().items()}
        tensors[name], coverage = match_tensors(name, wanted, part.files, part.layout)
        coverage.check(str(part.source))
        coverages.append(coverage)
    return tensors, tuple(coverages)


def _in_dtypes(tensors: Mapping[str, Stored], module: nn.Module, dtype: torch.dtype) -> dict[str, Stored]:
    norms = norm_names(module)
    return {name: stored.to(torch.float32 if name in norms else dtype) for name, stored in tensors.items()}


def _with_configs(
    tensors: Mapping[str, Mapping[str, Stored]], architecture: Architecture
) -> dict[str, tuple[AnyConfig, Mapping[str, Stored]]]:
    configs = {"vision": architecture.vision, "qformer": architecture.qformer, "llm": architecture.llm}
    return {name: (configs[name], tensors[name]) for name in tensors}


def _vision(sources: WeightPaths, opened: Mapping[Path, Mapping[str, Stored]], config: Blip2VisionConfig) -> _Opened:
    files = opened[sources.vision]
    if any(name.startswith("vision_model.") for name in files):
        _check_config(sources.vision, "vision_config", config, CHECKED_VISION)
        return _Opened(source=sources.vision, files=files, layout=published.hf_vision())
    beside = {name: stored for name, stored in opened[sources.qformer].items() if name.startswith("ln_vision.")}
    return _Opened(source=sources.vision, files={**files, **beside}, layout=published.eva(config.num_hidden_layers))


def _qformer(source: Path, files: Mapping[str, Stored], config: Blip2QFormerConfig) -> _Opened:
    if any(name.startswith("qformer.") for name in files):
        _check_config(source, "qformer_config", config, CHECKED_QFORMER)
        return _Opened(source=source, files=files, layout=published.hf_qformer())
    return _Opened(source=source, files=files, layout=published.blip2())


def _llm(source: Path, files: Mapping[str, Stored], config: PhiConfig) -> _Opened:
    _check_config(source, "text_config", config, CHECKED_LLM)
    layout = published.phi(files, config.num_hidden_layers, config.hidden_size // config.num_attention_heads)
    return _Opened(source=source, files=files, layout=layout)


def _check_config(source: Path, part: str, config: AnyConfig, names: Sequence[str]) -> None:
    """Compare what a folder's config.json says with what is wanted; a bare file has none.

    What it does not say is what transformers takes then.
    """
    if not source.is_dir():
        return
    path = source / "config.json"
    told = _mapping(path)
    found = published.flat_config(type(config)().to_dict()) | published.flat_config(_part(path, told.get(part, told)))
    wanted = published.flat_config(config.to_dict())
    unlike = [
        f"{name} {found.get(name)} instead of {wanted.get(name)}"
        for name in names
        if found.get(name) != wanted.get(name)
    ]
    if unlike:
        raise ConfigError(
            f"{path} is of another model than the one that is wanted: {'; '.join(unlike)}.\n"
            f"  this usually means: another revision, or {published.WRONG_SIZES}"
        )


def _mapping(path: Path) -> dict[str, Any]:
    return _part(path, read_json(path))


def _part(path: Path, told: object) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise ConfigError(f"{path} holds {json.dumps(told)[:60]} where there must be names and values")
    return told


def _published_tokenizer(source: Path, config: PhiConfig) -> PreTrainedTokenizerFast:
    """The tokenizer in the language model's folder. One token begins, ends and pads: the config's end."""
    if not source.is_dir():
        raise ConfigError(
            f"{source} is not a folder; the language model comes with its tokenizer.\n"
            "  name the folder that holds config.json, tokenizer.json and the weights"
        )
    path = source / "tokenizer.json"
    tokenizer = _tokenizer(path)
    end = tokenizer.id_to_token(config.eos_token_id) if isinstance(config.eos_token_id, int) else None
    if end is None or tokenizer.get_vocab_size() > config.vocab_size:
        raise ConfigError(
            f"{path} is another tokenizer: it has {tokenizer.get_vocab_size()} tokens and {end!r} as number "
            f"{config.eos_token_id}, which should end a text; the model has room for {config.vocab_size}.\n"
            f"  this usually means: {published.WRONG_SIZES}"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end)


def _tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise ConfigError(f"{path.parent} has no {path.name}.\n  fetch it from where the weights come from")
    told = json.dumps(read_json(path))
    try:
        return Tokenizer.from_str(told)
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing more special
        raise ConfigError(f"{path} is no tokenizer: {error}") from None


def import_checkpoint(folder: Path, file: Path, form: CheckpointForm, architecture: Architecture) -> Coverage:
    """Write a **checkpoint** artifact into `folder` from one of TinyGPT-V's own, `TinyGPT-V_for_StageN.pth`.

    Args:
        form: what the file does not say of itself: the stage's adapters, picture size and prompts.
        architecture: of the backbones that it was trained on.

    Raises:
        ConfigError: a tensor is missing, unexpected, of another shape or not of finite numbers; or the file
            says that it was trained with other adapters, pictures or prompts than the form's.
    """
    files, config = open_checkpoint(file)
    _check_stage(file, config, form)
    tensors, coverage = match_tensors(
        "checkpoint", trained_shapes(architecture, form), files, published.checkpoint(files)
    )
    coverage.check(str(file))
    save_stored(folder, form, tensors)
    return coverage


def trained_shapes(architecture: Architecture, form: CheckpointForm) -> dict[str, torch.Size]:
    """What a checkpoint of this form holds: names and shapes."""
    model = TinyGPTV.on_meta(architecture, form.lora)
    model.llm.leave_out(form.without)
    return {name: parameter.shape for name, parameter in trainable_parameters(model).items()}


def _check_stage(file: Path, config: object, form: CheckpointForm) -> None:
    """Compare what no tensor tells; the original's checkpoints carry it in their config."""
    told = config.get("model") if isinstance(config, Mapping) else None
    found, wanted = told if isinstance(told, Mapping) else {}, published.checkpoint_config(form)
    unlike = [
        name
        for name in published.TOLD_BY_CHECKPOINT
        if name in found and name in wanted and _comparable(found[name]) != _comparable(wanted[name])
    ]
    if unlike:
        faults = "; ".join(f"{name} {found[name]!r}, the stage has {wanted[name]!r}" for name in unlike)
        settings = [f"{form.name}.{published.TOLD_BY_CHECKPOINT[name]}={found[name]}" for name in unlike]
        raise ConfigError(
            f"{file} is no checkpoint of {form.name}: it was trained with {faults}.\n"
            f"  name its stage, or take the file's with {' '.join(f'--set {shlex.quote(one)}' for one in settings)}"
        )


def _comparable(value: object) -> object:
    """A number may be a text there, and nothing may be an empty one; how many spaces there are is the dialect's."""
    text = "" if value is None else str(value)
    try:
        return float(text)
    except ValueError:
        return re.sub(" +", " ", text).strip(" ")


@dataclass(frozen=True, kw_only=True)
class _Export:
    """An exported folder: its sizes, its tensors (those from before training have names of their own), its adapters."""

    folder: Path
    architecture: Architecture
    files: Mapping[str, Stored]
    lora: object


def _open_export(folder: Path) -> _Export:
    told = _mapping(folder / "config.json")
    if told.get("model_type") != "tinygptv":
        raise ConfigError(f"{folder} is no export of this project: its config.json says {told.get('model_type')!r}")
    before = open_weights(folder / UNTRAINED_NORMS)
    files = open_weights(folder) | {f"{published.UNTRAINED}{name}": stored for name, stored in before.items()}
    architecture = _told_architecture(folder / "config.json")
    return _Export(folder=folder, architecture=architecture, files=files, lora=told.get("lora"))


def restore_backbones(folder: Path, export: Path) -> tuple[Coverage, ...]:
    """Write the **backbones** artifact into `folder` from what `export.export_folder` wrote: the bytes of before.

    Raises:
        ConfigError: it is no such folder, or a tensor is missing, unexpected or of another shape.
    """
    found = _open_export(export)
    now = {name: stored for name, stored in found.files.items() if not name.startswith(published.UNTRAINED)}
    opened = {
        "vision": _Opened(source=export, files=now, layout=published.hf_vision()),
        "qformer": _Opened(source=export, files=now, layout=published.hf_qformer()),
        "llm": _Opened(source=export, files=found.files, layout=published.exported_llm(found.files)),
    }
    tensors, coverages = _gathered(opened, found.architecture)
    told = _mapping(export / "tokenizer_config.json")
    specials = {name: item for name, item in told.items() if name.endswith("_token")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_tokenizer(export / "tokenizer.json"), **specials)
    configs = _with_configs(tensors, found.architecture)
    write_backbones(folder, configs, tokenizer, _mapping(export / "backbones.json"))
    return coverages


def restore_checkpoint(folder: Path, export: Path) -> Coverage:
    """Write the **checkpoint** artifact into `folder` from what `export.export_folder` wrote: the bytes of before.

    Raises:
        ConfigError: as `restore_backbones`.
    """
    found, form = _open_export(export), read_form(export)
    if found.lora != plain(form.lora):
        raise ConfigError(
            f"{export}: config.json says of the adapters {found.lora}, stage.json {plain(form.lora)}.\n"
            "  one of them was edited; export the model again"
        )
    wanted = trained_shapes(found.architecture, form)
    tensors, coverage = match_tensors("checkpoint", wanted, found.files, published.exported_checkpoint())
    coverage.check(str(export))
    save_stored(folder, form, tensors)
    return coverage


def _told_architecture(path: Path) -> Architecture:
    told = _mapping(path)
    try:
        return Architecture(
            vision=Blip2VisionConfig.from_dict(told["vision_config"]),
            qformer=Blip2QFormerConfig.from_dict(told["qformer_config"]),
            num_queries=int(told["num_query_tokens"]),
            llm=PhiConfig.from_dict(told["text_config"]),
            projection_widths=tuple(map(int, told["projection_widths"])),
        )
    except KeyError as error:
        raise ConfigError(f"{path} does not say {error}; was it edited? Export the model again") from None
    except (StrictDataclassError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is of no model: {error}.\n  was it edited? Export the model again") from None
