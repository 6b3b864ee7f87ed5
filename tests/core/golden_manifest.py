"""Checks of what the reference's model is: names and shapes of its tensors, how many they are, which are trained."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest
import torch

from tests.core.reference import Check, Goldens, trainable_name, trainable_tensors
from tinygptv_core.engine import BETAS, EPSILON
from tinygptv_core.formats import published
from tinygptv_core.formats.architectures import PAPER
from tinygptv_core.formats.export import export_published
from tinygptv_core.model import TinyGPTV
from tinygptv_core.presets import AS_PUBLISHED
from tinygptv_core.stage import Lora
from tinygptv_core.trainable import is_lora, load_trainable, parameter_groups, trainable_parameters
from tinygptv_core.vision import VisionTower


def check_trainable(goldens: Goldens, number: int) -> None:
    told = goldens.manifest["stages"][f"stage{number}"]
    found = trainable_parameters(goldens.model(number))
    expected = {trainable_name(name): tuple(shape) for name, shape in told["trainable"].items()}
    assert {name: tuple(parameter.shape) for name, parameter in found.items()} == expected
    assert sum(parameter.numel() for parameter in found.values()) == told["n_trainable"]


def check_groups(goldens: Goldens, number: int) -> None:
    model, told = goldens.model(number), goldens.manifest["stages"][f"stage{number}"]["adamw_groups"]
    names = {id(parameter): name for name, parameter in trainable_parameters(model).items()}
    groups = parameter_groups(model, AS_PUBLISHED.stages[number - 1].weight_decay)
    found = {group["weight_decay"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}
    assert found == {group["weight_decay"]: {trainable_name(name) for name in group["names"]} for group in told}
    assert {(tuple(group["betas"]), group["eps"]) for group in told} == {(BETAS, EPSILON)}


def check_checkpoint(goldens: Goldens, number: int) -> None:
    """The file has what the manifest says, and that is what we train."""
    told, tensors = goldens.manifest["stages"][f"stage{number}"], goldens.tensors(f"checkpoints/stage{number}")
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == told["checkpoint_model_keys"]
    trained = {name: tensor for name, tensor in tensors.items() if name != published.POSITION_IDS}
    assert trainable_tensors(trained).keys() == trainable_parameters(goldens.model(number)).keys()


def check_exported(goldens: Goldens, number: int) -> None:
    """Imported and exported again it is the reference's file: its outer names, its tensors bit for bit."""
    told, expected = goldens.manifest["stages"][f"stage{number}"], goldens.tensors(f"checkpoints/stage{number}")
    folder = goldens.imported_checkpoint(number)
    export_published(folder, folder / "exported.pth")
    written = torch.load(folder / "exported.pth", weights_only=True)
    assert written.keys() == set(told["checkpoint_top_level_keys"])
    assert written["model"].keys() == expected.keys()
    for name, tensor in written["model"].items():
        # The buffer is as long as BERT has positions, and what it holds needs no file.
        found = tensor[:, : expected[name].shape[1]] if name == published.POSITION_IDS else tensor
        assert torch.equal(found, expected[name]), name


def check_tensors(goldens: Goldens, number: int) -> None:
    """Each tensor of the reference's model is one of ours, of the same shape, and none of ours is anything else."""
    told = goldens.manifest["stages"][f"stage{number}"]
    expected = {name: shape for name, shape in told["full_state_dict_keys"].items() if name != published.POSITION_IDS}
    found = {**tower_tensors(goldens.model(number).vision, told["cfg"]["image_size"])}
    model, wrapped = goldens.model(number), goldens.lora(number) is not None
    for name, tensor in model.qformer.state_dict().items():
        found[published.blip2().origin(name).names[0]] = list(tensor.shape)
    for name, tensor in model.state_dict().items():
        if name.startswith(("llm.", "projections.")):
            plain = name.replace(".base_layer.", ".").replace(".default.", ".")
            found[published.name_in_checkpoint(plain, wrapped=wrapped, adapter=False)] = list(tensor.shape)
    assert found == expected


def tower_tensors(vision: VisionTower, image_size: int) -> dict[str, list[int]]:
    """As the reference has them: position embeddings for `image_size`, biases of queries and values, none of keys."""
    found = {}
    for name, tensor in vision.tower.state_dict().items():
        names = published.eva(vision.config.num_hidden_layers).origin(name).names
        for source in names:
            theirs = source if source.startswith("ln_vision.") else f"visual_encoder.{source}"
            found[theirs] = list(tensor.shape) if len(names) == 1 else [vision.config.hidden_size]
    found["visual_encoder.pos_embed"][1] = (image_size // vision.patch_size) ** 2 + 1
    return found


def check_total(goldens: Goldens, number: int) -> None:
    told = goldens.manifest["stages"][f"stage{number}"]
    assert parts_of(goldens.model(number), told["cfg"]["image_size"])["total"]["total"] == told["n_total"]


def check_first_into_second(goldens: Goldens) -> None:
    """Where the reference lost every norm of stage 1 without a word, ours loads them all, or refuses."""
    told = goldens.manifest["stage1_ckpt_into_stage2_model"]
    first, model = goldens.checkpoint(1), goldens.new_model(2)
    with pytest.raises(ValueError, match="missing: .*lora_A"):
        load_trainable(model, first, new_lora=False)
    load_trainable(model, first, new_lora=True)
    found = {name: value for name, value in trainable_parameters(model).items() if not is_lora(name)}
    assert found.keys() == first.keys()
    assert {trainable_name(n) for n in [*told["unexpected_keys_silently_dropped"], *told["changed"]]} == found.keys()
    assert all(torch.equal(value, first[name]) for name, value in found.items())


def parts_of(model: TinyGPTV, image_size: int) -> dict[str, dict[str, int]]:
    """How many values each part has and how many of them are trained, counted as the reference has them.

    It has no bias for the tower's keys, where ours are zeros, and position embeddings for `image_size`, where ours are
    interpolated.
    """
    tower = model.vision.tower
    last = {id(parameter) for parameter in tower.post_layernorm.parameters()}
    parts = {
        "query_tokens": [model.qformer.query_tokens],
        "llama_model": list(model.llm.parameters()),
        "visual_encoder": [parameter for parameter in tower.parameters() if id(parameter) not in last],
        "ln_vision": list(tower.post_layernorm.parameters()),
        "Qformer": list(model.qformer.qformer.parameters()),
    }
    parts |= {name: list(linear.parameters()) for name, linear in model.projections.named_children()}
    counts = {
        name: {"total": sum(p.numel() for p in found), "trainable": sum(p.numel() for p in found if p.requires_grad)}
        for name, found in parts.items()
    }
    counts["visual_encoder"]["total"] += _more_in_the_reference(model.vision, image_size)
    counts["total"] = {kind: sum(part[kind] for part in counts.values()) for kind in ("total", "trainable")}
    return counts


def _more_in_the_reference(vision: VisionTower, image_size: int) -> int:
    config, patch = vision.config, vision.patch_size
    positions = (image_size // patch) ** 2 - (vision.image_size // patch) ** 2
    return config.hidden_size * (positions - config.num_hidden_layers)


@cache
def paper_model(lora: Lora | None) -> TinyGPTV:
    return TinyGPTV.on_meta(PAPER, lora)


def check_full_size(name: str, told: dict[str, Any]) -> None:
    ranks = {of_one["shape"][0] for pattern, of_one in told["trainable_patterns"].items() if ".lora_A." in pattern}
    model = paper_model(Lora(rank=ranks.pop(), alpha=16, dropout=0.05) if ranks else None)
    found = parts_of(model, 448 if name.startswith("stage4") else 224)
    total, trained = found.pop("total"), trainable_parameters(model)
    assert found == told["components"]
    assert total == {"total": told["total"], "trainable": told["trainable"]}
    assert 100 * total["trainable"] / total["total"] == pytest.approx(told["trainable_percent"])
    assert len(trained) == told["trainable_tensors"]
    # The reference has two biases, of queries and values, where ours has one for all three.
    assert sum(1 for _ in model.parameters()) + PAPER.vision.num_hidden_layers == told["n_parameter_tensors"]
    patterns: dict[str, dict[str, Any]] = {}
    for own_name, parameter in trained.items():
        pattern = ".".join("*" if part.isdigit() else part for part in own_name.split("."))
        of_one = patterns.setdefault(pattern, {"tensors": 0, "params": 0, "shape": list(parameter.shape)})
        of_one["tensors"] += 1
        of_one["params"] += parameter.numel()
    assert patterns == {trainable_name(pattern): of_one for pattern, of_one in told["trainable_patterns"].items()}


def full_size_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    for stage, told in goldens.told(f"misc/{name}").items():
        run = partial(check_full_size, stage, told)
        yield Check(name=f"{name}-{stage}", files=(f"misc/{name}.json",), run=run)


def check_config(goldens: Goldens) -> None:
    """What is no size is in the folder's model as in the product's."""
    told, llm = goldens.manifest["llm_config"], goldens.architecture.llm
    for name in ("hidden_act", "layer_norm_eps", "bos_token_id", "eos_token_id"):
        assert getattr(llm, name) == told[name], name
    assert llm.rope_parameters["rope_theta"] == told["rope_theta"]
    assert told["rope_scaling"] is None


def check_tokenizer(goldens: Goldens) -> None:
    told, tokenizer = goldens.manifest, goldens.tokenizer
    assert len(tokenizer) == told["tokenizer_len"]
    assert {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} == {told["bos_eos_pad_id"]}
    assert goldens.model(goldens.stages[0]).llm.lm_head.out_features == told["vocab_size"]


def check_cases(goldens: Goldens) -> None:
    """What the manifest lists is there."""
    assert set(goldens.manifest["cases"]) <= set(goldens.named("cases"))


def manifest_checks(goldens: Goldens) -> Iterator[Check]:
    of_stage: dict[str, Callable[[Goldens, int], None]] = {
        "trainable": check_trainable,
        "adamw_groups": check_groups,
        "checkpoint_model_keys": check_checkpoint,
        "exported": check_exported,
        "full_state_dict_keys": check_tensors,
        "n_total": check_total,
    }
    for number in goldens.stages:
        for name, check in of_stage.items():
            yield Check(name=f"stage{number}-{name}", files=(), run=partial(check, goldens, number))
    of_all: dict[str, Callable[[Goldens], None]] = {
        "stage1_ckpt_into_stage2_model": check_first_into_second,
        "llm_config": check_config,
        "tokenizer_len": check_tokenizer,
        "cases": check_cases,
    }
    for name, check in of_all.items():
        yield Check(name=f"manifest-{name}", files=(), run=partial(check, goldens))
