"""A folder laid out as `tests/goldens`, of other sizes and texts, with the numbers of `other_model.py`.

It has what depends on sizes: weights, checkpoints, forward passes with gradients, answers, masks, pictures, a
trajectory, the manifest. Stages 1 to 3 see pictures of another size than the tower's own.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from tests.core import other_model
from tests.core.other_model import Tensors
from tests.core.other_weights import (
    ALPHA,
    ASKED,
    BETWEEN,
    PHI,
    PICTURE,
    POSITION_IDS,
    QUERIES,
    RANK,
    SAMPLES,
    SENTENCES,
    SIZES,
    SLOT,
    STAGES,
    TARGET,
    UNSEEN,
    blip2_shapes,
    drawn,
    eva_shapes,
    new_tokenizer,
    phi_shapes,
    trained_shapes,
)

# Shape letters of this file: B batch, S positions, T tokens of an answer, Q queries, D any width, V vocabulary.


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sample: the ids around the picture (all ids without one, none where it stands alone), and what follows."""

    asked: Sequence[Sequence[int]]
    told: Sequence[tuple[int, str]] = ()

    def tokens(self, begin: Sequence[int]) -> list[tuple[int, str]]:
        """Every position of the sequence, and what it is."""
        before, after = (self.asked[0], self.asked[-1]) if len(self.asked) > 1 else ((), ())
        first = self.asked[0] if len(self.asked) == 1 else [*before, *[PICTURE] * QUERIES, *after]
        return [*((token, ASKED) for token in (*begin, *first)), *self.told]


class Reference:
    """The weights, and what the model makes of them."""

    def __init__(self) -> None:
        self.tokenizer = new_tokenizer()
        self.end = self.tokenizer.token_to_id("<|endoftext|>")
        self.eva, self.blip2, self.phi = drawn(eva_shapes(), 1), drawn(blip2_shapes(), 2), drawn(phi_shapes(), 3)
        self.phi["lm_head.bias"][self.tokenizer.get_vocab_size() :] -= 20  # what no text has is not said either
        self.trained = {stage: drawn(trained_shapes(told.rank), int(stage[-1])) for stage, told in STAGES.items()}
        self.generator = torch.Generator().manual_seed(5)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def row(self, questions: Sequence[str], answers: Sequence[str], most: int) -> Row:
        told = [(token, TARGET) for token in self.ids(answers[0])]
        for question, answer in zip(questions[1:], answers[1:], strict=True):
            told += [(self.end, UNSEEN), *((token, ASKED) for token in self.ids(question))]
            told += [(token, TARGET) for token in self.ids(answer)]
        pieces = questions[0].split("<ImageHere>") if questions else []
        return Row(asked=[self.ids(piece) for piece in pieces], told=told[:most])

    def rows(self, stage: str, samples: Mapping[str, Any]) -> list[Row]:
        told, made = STAGES[stage], list[Row]()
        asked = samples.get("conv_q", samples.get("instruction_input"))
        for number, answer in enumerate(samples.get("conv_a", samples.get("answer"))):
            questions = [told.template.format(text) for text in asked[number].split(BETWEEN)] if asked else told.prompts
            made.append(self.row(questions, [text + told.end for text in answer.split(BETWEEN)], told.most))
        return made

    def pixels(self, count: int, side: int) -> Tensor:
        return torch.randn(count, 3, side, side, generator=self.generator)

    def pictures(self, trained: Tensors, pixels_B3HW: Tensor) -> dict[str, Tensor]:
        seen = other_model.tower(self.eva, pixels_B3HW, SIZES["eva_depth"], SIZES["eva_heads"])
        last = other_model.normed(self.blip2, "ln_vision", seen, 1e-5)
        queries = other_model.qformer(self.blip2, last, SIZES["q_layers"], SIZES["q_heads"])
        wide = other_model.affine(trained, "llama_proj", queries)
        parts = {"visual_encoder": seen, "ln_vision": last, "qformer": queries, "llama_proj": wide}
        return {**parts, "image_tokens": other_model.affine(trained, "llama_proj2", wide)}

    def sequence(self, rows: Sequence[Sequence[tuple[int, str]]], image_BQD: Tensor | None) -> dict[str, Tensor]:
        """Embeddings, mask and labels, padded on the right; on the left where the picture is last."""
        ids_BS = padded([[token for token, _ in row] for row in rows], self.end)
        embeds_BSD = self.phi["model.embed_tokens.weight"][ids_BS.clamp(min=0)]
        if image_BQD is not None:
            embeds_BSD = embeds_BSD.masked_scatter((ids_BS == PICTURE)[..., None], image_BQD)
        mask_BS = padded([[int(kind != UNSEEN) for _, kind in row] for row in rows], 0)
        labels_BS = padded([[token if kind == TARGET else -100 for token, kind in row] for row in rows], -100)
        return {"inputs_embeds": embeds_BSD, "attention_mask": mask_BS, "labels": labels_BS}

    def read(
        self, trained: Tensors, x_BSD: Tensor, mask_BS: Tensor, position_BS: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """What each layer gives, and logits_BSV."""
        w = {**self.phi, **trained, "scale": torch.tensor(ALPHA / RANK)}
        turned = int(PHI["partial_rotary_factor"] * SIZES["hidden"] / SIZES["heads"])
        return other_model.phi(w, x_BSD, mask_BS, position_BS, heads=SIZES["heads"], turned=turned)

    def forward(self, trained: Tensors, rows: Sequence[Row], pixels_B3HW: Tensor | None) -> dict[str, Tensor]:
        """All that a case holds, and the loss."""
        parts = {} if pixels_B3HW is None else {"pixel_values": pixels_B3HW, **self.pictures(trained, pixels_B3HW)}
        made = self.sequence([row.tokens([self.end]) for row in rows], parts.get("image_tokens"))
        position_BS = torch.arange(made["labels"].shape[1])[None]
        layers, logits_BSV = self.read(trained, made["inputs_embeds"], made["attention_mask"], position_BS)
        loss = functional.cross_entropy(logits_BSV[:, :-1].flatten(0, 1), made["labels"][:, 1:].flatten())
        named = {f"llm_layer{number}": x_BSD for number, x_BSD in enumerate(layers)}
        return {**parts, **made, **named, "logits": logits_BSV, "loss": loss}

    def answers(self, trained: Tensors, made: Tensors, penalty: float, steps: int) -> tuple[Tensor, Tensor]:
        """(ids_BT, scores_BTV), all read anew for each token; the end of text counts as said from the start."""
        x_BSD, mask_BS, scores = made["inputs_embeds"], made["attention_mask"], list[Tensor]()
        said_BT = torch.full((len(x_BSD), 1), self.end)
        for _ in range(steps):
            score_BV = self.read(trained, x_BSD, mask_BS, mask_BS.cumsum(1) - 1)[1][:, -1]
            less_BV = torch.where(score_BV > 0, score_BV / penalty, score_BV * penalty)
            is_said_BV = functional.one_hot(said_BT, score_BV.shape[1]).any(1)
            scores.append(torch.where(is_said_BV, less_BV, score_BV))
            said_BT = torch.cat([said_BT, scores[-1].argmax(-1, keepdim=True)], dim=1)
            x_BSD = torch.cat([x_BSD, self.phi["model.embed_tokens.weight"][said_BT[:, -1:]]], dim=1)
            mask_BS = functional.pad(mask_BS, (0, 1), value=1)
        return said_BT, torch.stack(scores, dim=1)


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    most = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (most - len(row))] for row in rows])


def write(folder: Path) -> None:
    for name in ("weights/phi_base", "cases", "misc", "checkpoints"):
        (folder / name).mkdir(parents=True)
    reference = Reference()
    write_weights(reference, folder)
    for case, samples in SAMPLES.items():
        write_forward(reference, folder / "cases" / case, samples)
    write_answers(reference, folder / "cases" / "stage4_generate_rep")
    write_masks(reference, folder / "cases")
    for side in (14, 98):
        pixels, trained = reference.pixels(2, side), reference.trained["stage1"]
        found = {**reference.pictures(trained, pixels), "pos_embed": other_model.positions(reference.eva, side)}
        write_tensors(folder / "cases" / f"vision_{side}", {**found, "pixel_values": pixels})
    write_trajectory(reference, folder / "misc" / "trajectory_stage2_accum2")
    write_manifest(reference, folder)


def write_json(path: Path, told: Mapping[str, Any]) -> None:
    Path(f"{path}.json").write_text(json.dumps(told, indent=1), encoding="utf-8")


def write_tensors(path: Path, tensors: Tensors) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, f"{path}.safetensors")


def write_weights(reference: Reference, folder: Path) -> None:
    phi = folder / "weights" / "phi_base"
    write_tensors(folder / "weights" / "eva_vit_g", reference.eva)
    write_tensors(folder / "weights" / "blip2_qformer", reference.blip2 | POSITION_IDS)
    write_tensors(phi / "model", reference.phi)
    write_json(phi / "config", PHI)
    reference.tokenizer.save(str(phi / "tokenizer.json"))
    for stage, told in STAGES.items():
        write_tensors(folder / "checkpoints" / stage, told.theirs(reference.trained[stage]) | POSITION_IDS)


def calls(reference: Reference, rows: Sequence[Row]) -> list[Any]:
    """The ids of each embedding, one after another: around each picture, or of all questions without one."""
    if all(len(row.asked) == 1 for row in rows):
        return [[row.asked[0] for row in rows]]
    return [[piece] for row in rows for piece in row.asked]


def write_forward(reference: Reference, path: Path, samples: Mapping[str, Any]) -> None:
    stage = path.name.partition("_")[0]
    told, rows = STAGES[stage], reference.rows(stage, samples)
    pixels = None if len(rows[0].asked) == 1 else reference.pixels(len(rows), told.side)
    trained = {name: tensor.clone().requires_grad_() for name, tensor in reference.trained[stage].items()}
    found = reference.forward(trained, rows, pixels)
    loss = found.pop("loss")
    loss.backward()
    gradients = told.theirs({name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in trained.items()})
    is_asked = stage == "stage4"
    write_tensors(path, found)
    write_tensors(path.with_name(f"{path.name}.grads"), gradients)
    write_json(
        path,
        {
            "samples": samples,
            "chosen_prompt": told.prompts[0] if told.prompts else None,
            "prompt_template": told.template if is_asked else "",
            "chat_template": is_asked,
            "end_sym": told.end,
            "max_txt_len": told.most,
            "loss": loss.item(),
            "n_target_tokens": int((found["labels"] != -100).sum()),
            "grad_norms": {name: gradient.norm().item() for name, gradient in gradients.items()},
            "total_grad_norm": torch.cat([gradient.flatten() for gradient in gradients.values()]).norm().item(),
            "no_grad_params": [told.their_name(name) for name, tensor in trained.items() if tensor.grad is None],
            "token_ids": {text: reference.ids(text) for text in SENTENCES},
            "embed_calls_token_ids": [
                *calls(reference, rows),
                [[token for token, _ in row.told] for row in rows],
                [[reference.end]] * len(rows),
            ],
        },
    )


def write_answers(reference: Reference, path: Path) -> None:
    texts = [f"###Human: {SLOT}{words}###Assistant: " for words in ("[vqa] what?", SENTENCES[1])]
    rows = [Row(asked=[reference.ids(piece) for piece in text.split("<ImageHere>")]) for text in texts]
    pixels, trained = reference.pixels(len(texts), STAGES["stage4"].side), reference.trained["stage4"]
    image_BQD = reference.pictures(trained, pixels)["image_tokens"]
    most = max(len(row.tokens([])) for row in rows)
    padding = [[(reference.end, UNSEEN)] * (most - len(row.tokens([]))) for row in rows]
    made = reference.sequence([[*left, *row.tokens([])] for left, row in zip(padding, rows, strict=True)], image_BQD)
    raw, scores = reference.answers(trained, made, penalty=1.4, steps=7)
    sequence = {name: made[name] for name in ("inputs_embeds", "attention_mask")}
    found = {"pixel_values": pixels, "image_tokens": image_BQD, "step_scores": scores, **sequence}
    write_tensors(path, {**found, "generated_ids": raw[:, 1:], "generated_ids_raw": raw})
    write_json(
        path,
        {
            "texts": texts,
            "answers": [reference.tokenizer.decode(ids) for ids in raw[:, 1:].tolist()],
            "generate_kwargs": {"repetition_penalty": 1.4},
            "generated_ids": raw[:, 1:].tolist(),
            "raw_first_token_is_bos": raw[:, 0].tolist(),
            "max_new_tokens": 7,
            "embed_calls_token_ids": calls(reference, rows),
        },
    )


def write_masks(reference: Reference, folder: Path) -> None:
    ids_BS = torch.randint(0, reference.end, (2, 8), generator=reference.generator)
    for name, unseen in (("right", (5, 6, 7)), ("left", (0, 1, 2)), ("hole", (2, 5))):
        mask_BS = torch.ones_like(ids_BS)
        mask_BS[1, list(unseen)] = 0
        x_BSD, position_BS = reference.phi["model.embed_tokens.weight"][ids_BS], torch.arange(8)[None]
        logits_BSV = reference.read(reference.trained["stage3"], x_BSD, mask_BS, position_BS)[1]
        found = {"input_ids": ids_BS, "attention_mask": mask_BS, "logits": logits_BSV}
        write_tensors(folder / f"llm_mask_{name}", found)


def write_trajectory(reference: Reference, path: Path) -> None:
    """Two epochs of three steps; the optimizer is stepped with the sum of two of them."""
    told, run = STAGES["stage2"], {"init_lr": 2e-3, "min_lr": 4e-4, "warmup_lr": 1e-5, "weight_decay": 0.1}
    run |= {"max_epoch": 2, "iters_per_epoch": 3, "warmup_steps": 2}
    batches = [{"answer": [SENTENCES[0]]}, {"answer": [SENTENCES[2], SENTENCES[1]]}, {"answer": [SENTENCES[1]]}]
    pixels = [reference.pixels(len(batch["answer"]), told.side) for batch in batches]
    trained = {name: tensor.clone().requires_grad_() for name, tensor in reference.trained["stage2"].items()}
    groups = [
        {"params": [tensor for tensor in trained.values() if (tensor.ndim > 1) == has_decay], "weight_decay": decay}
        for has_decay, decay in ((True, 0.1), (False, 0.0))
    ]
    optimizer, steps = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8), list[dict[str, Any]]()
    for step in range(6):
        epoch, place = divmod(step, 3)
        warm = run["warmup_lr"] + (run["init_lr"] - run["warmup_lr"]) * step / 2
        cosine = run["min_lr"] + (run["init_lr"] - run["min_lr"]) * (1 + math.cos(math.pi * step / 6)) / 2
        for group in optimizer.param_groups:
            group["lr"] = warm if step < 2 else cosine
        loss = reference.forward(trained, reference.rows("stage2", batches[place]), pixels[place])["loss"]
        loss.backward()
        steps.append({"loss": loss.item(), "lr": [optimizer.param_groups[0]["lr"]] * 2, "epoch": epoch, "iter": place})
        if place == 1:
            optimizer.step()
            optimizer.zero_grad()
    write_tensors(path.with_name(f"{path.name}.inputs"), {f"pixel_values.{n}": x for n, x in enumerate(pixels)})
    write_tensors(path.with_name(f"{path.name}.final"), told.theirs(trained))
    made = {"stage": "stage2", "run": run, "accum_grad_iters": 2, "batches": batches, "prompt_seed": None}
    write_json(path, {**made, "steps": steps})


def write_manifest(reference: Reference, folder: Path) -> None:
    end, size = reference.end, reference.tokenizer.get_vocab_size()
    first = STAGES["stage1"].theirs(reference.trained["stage1"])
    write_json(
        folder / "manifest",
        {
            "spec": SIZES,
            "llm_config": {**PHI, "bos_token_id": end, "eos_token_id": end},
            "vocab_size": PHI["vocab_size"],
            "tokenizer_len": size,
            "bos_eos_pad_id": end,
            "stages": {stage: told_stage(reference, stage) for stage in STAGES},
            "stage1_ckpt_into_stage2_model": {
                "unexpected_keys_silently_dropped": [name for name in first if name.startswith("llama_model")],
                "changed": [name for name in first if name.startswith("llama_proj")],
            },
            "cases": [*SAMPLES, "stage4_generate_rep", "llm_mask_hole", "vision_14", "vision_98"],
        },
    )


def told_stage(reference: Reference, stage: str) -> dict[str, Any]:
    told, trained = STAGES[stage], STAGES[stage].theirs(reference.trained[stage])
    used = {name: x for name, x in reference.eva.items() if not name.startswith(f"blocks.{SIZES['eva_depth']}.")}
    used["pos_embed"] = other_model.positions(reference.eva, told.side)
    whole = {f"visual_encoder.{name}": tensor for name, tensor in used.items()} | told.theirs(reference.phi) | trained
    whole |= {name: tensor for name, tensor in reference.blip2.items() if not name.startswith("t5_proj")}
    matrices, vectors = ([name for name, x in trained.items() if (x.ndim > 1) == flat] for flat in (True, False))
    return {
        "cfg": {"image_size": told.side, "lora_r": told.rank, "lora_alpha": ALPHA},
        "effective_prompt_template": told.template,
        "effective_max_txt_len": told.most,
        "effective_end_sym": told.end,
        "prompt_list": told.prompts,
        "checkpoint_top_level_keys": ["model", "optimizer", "config", "scaler", "epoch"],
        "checkpoint_model_keys": {name: list(x.shape) for name, x in (trained | POSITION_IDS).items()},
        "full_state_dict_keys": {name: list(x.shape) for name, x in (whole | POSITION_IDS).items()},
        "trainable": {name: list(x.shape) for name, x in trained.items()},
        "n_trainable": sum(x.numel() for x in trained.values()),
        "n_total": sum(x.numel() for x in whole.values()),
        "adamw_groups": [
            {"weight_decay": decay, "betas": [0.9, 0.999], "eps": 1e-8, "names": names}
            for decay, names in ((0.05, matrices), (0, vectors))
        ],
    }
