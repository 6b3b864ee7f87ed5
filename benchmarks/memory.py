"""How much memory TinyGPT-V takes at full size. Computed, not measured: no GPU is needed, nor the weights.

    python -m benchmarks.memory

The real model is built at the paper's sizes from tensors that have a shape and a dtype and no data, one micro-batch
goes forward and back through it, and what every operation makes is counted until nobody holds it. A GPU needs more by
what this cannot see: the driver's own part and the kernels' workspaces, some 0.5 GiB, and what the allocator loses.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinygptv_core.answer import narrow_linears
from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.formats.architectures import architecture
from tinygptv_core.generate import new_cache
from tinygptv_core.loss import summed_cross_entropy
from tinygptv_core.model import TinyGPTV
from tinygptv_core.quantize import large_linears
from tinygptv_core.sizes import PAPER_SIZES, ModelSizes
from tinygptv_core.stage import Lora
from tinygptv_core.trainable import is_lora, trainable_parameters
from tinygptv_core.weights import Convert, assign_tensors, narrowing

# Shape letters of this file: B batch, T text positions, S positions with the picture in place, D width of the LLM,
# H = W side in pixels, K targets, V vocabulary.

Make = Callable[[torch.Size], Tensor]

GIB = 1 << 30
LORA = Lora(rank=64, alpha=16, dropout=0.05)
MOMENTS_AND_GRADIENT_BYTES = 12
"""Of each trained value, beside the value itself: AdamW's two moments and the gradient, all float32."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One micro-batch of training.

    Attributes:
        name: the stage, and which of its data.
        samples: how many sequences.
        text: tokens of a sequence beside the picture and the targets: BOS and what is asked.
        targets: of a sequence, in tokens.
        image_size: side of the pictures, in pixels.
    """

    name: str
    lora: Lora | None
    samples: int
    text: int
    targets: int
    image_size: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """In bytes.

    Attributes:
        fixed: weights, and for training what each trained value has beside it.
        saved: what autograd keeps between the way forward and the way back.
        moving: the most that a micro-batch takes at any time, what is saved among it.
    """

    fixed: int
    saved: int
    moving: int

    @property
    def peak(self) -> int:
        """All together."""
        return self.fixed + self.moving


def paper_loads() -> Iterator[Load]:
    """The stages as published (arXiv:2312.16862): batches of 64, 6 and 1 to 3, halved where they may have to be."""
    for name, lora in (("stage 1", None), ("stage 2", LORA)):
        for samples in (64, 32, 16, 8):
            yield Load(name=name, lora=lora, samples=samples, text=1, targets=32, image_size=224)
    for samples in (6, 3):
        yield Load(name="stage 3", lora=LORA, samples=samples, text=32, targets=160, image_size=224)
    for name, samples, targets in (("short answers", 3, 32), ("longest answer", 1, 1024), ("all positions", 1, 1952)):
        yield Load(name=f"stage 4, {name}", lora=LORA, samples=samples, text=64, targets=targets, image_size=448)


PAPER_QUESTION = Load(name="a question", lora=LORA, samples=1, text=64, targets=64, image_size=448)
"""One person's, with an answer of 64 tokens."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of what operations make, for as long as somebody holds it.

    Attributes:
        now, most: bytes; what was there before is in neither.
    """

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._held = {tensor.untyped_storage()._cdata for tensor in before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What `func` gives, counted. Views and what is changed in place are there already."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return made

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._held:
            self._held.add(storage._cdata)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, name: int, num_bytes: int) -> None:
        self._held.discard(name)
        self.now -= num_bytes


def new_model(sizes: ModelSizes, lora: Lora | None) -> TinyGPTV:
    """The model without weights."""
    return TinyGPTV.on_meta(architecture(sizes), lora)


class Made(Mapping[str, Tensor]):
    """Tensors of these shapes, each made when it is asked for, so that no more than one of them is there twice."""

    def __init__(self, shapes: Mapping[str, torch.Size], make: Make) -> None:
        self._shapes, self._make = shapes, make

    def __getitem__(self, name: str) -> Tensor:
        return self._make(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def fill_with(make: Make, model: TinyGPTV, dtype: torch.dtype, convert: Convert | None = None) -> None:
    """Give it weights in the dtypes that loading gives them.

    Args:
        convert: as for `load_backbones`; it gets each Linear on the CPU.
    """

    def converted(part: str, name: str, linear: nn.Linear) -> nn.Linear:
        return linear if convert is None or is_lora(f"{name}.") else convert(f"{part}.{name}", linear.cpu())

    wide = {model.vision.tower: partial(converted, "vision.tower"), model.llm: partial(converted, "llm")}
    converts = {**wide, model.qformer: narrowing(dtype)}
    adapters = [module for name, module in model.llm.named_modules() if is_lora(name)]
    for module in (model.vision.tower, model.llm, model.qformer, model.projections, *adapters):
        own = dtype if module in wide else torch.float32
        shapes = {name: like.shape for name, like in module.state_dict().items()}
        assign_tensors(module, Made(shapes, make), own, "", converts.get(module))
    model.llm.rebuild_rotary()


def fill_with_zeros(model: TinyGPTV, dtype: torch.dtype) -> None:
    """Zeros; under a FakeTensorMode they take no memory."""
    fill_with(torch.zeros, model, dtype)


def batch_of(load: Load) -> Batch:
    """Samples as long as `load` says, none of them padded."""
    B, T = load.samples, load.text + 1 + load.targets
    labels_BT = torch.zeros(B, T, dtype=torch.int64)
    labels_BT[:, : load.text + 1] = IGNORED
    return Batch(
        images_B3HW=torch.zeros(B, 3, load.image_size, load.image_size),
        ids_BT=torch.zeros(B, T, dtype=torch.int64),
        labels_BT=labels_BT,
        mask_BT=torch.ones(B, T, dtype=torch.bool),
        slot_B=torch.zeros(B, dtype=torch.int64),
        keys=("",) * B,
    )


def training(sizes: ModelSizes, load: Load, dtype: torch.dtype, *, recompute: bool) -> Memory:
    """One micro-batch forward and back, with the tower's part, as `TinyGPTV.forward` does it.

    Args:
        recompute: with gradient checkpointing.
    """
    model = new_model(sizes, load.lora).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        fill_with_zeros(model, dtype)
        if recompute:
            model.llm.recompute_layers()
        trained = trainable_parameters(model).values()
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        batch = batch_of(load)
        with LiveBytes(_tensors(model, batch)) as live:
            with _autocast(dtype):
                loss = _loss(model, batch, load.samples * load.targets)
            saved = live.now
            loss.backward()
        fixed = weight_bytes(model) + MOMENTS_AND_GRADIENT_BYTES * sum(item.numel() for item in trained)
        return Memory(fixed=fixed, saved=saved, moving=live.most)


def _loss(model: TinyGPTV, batch: Batch, K: int) -> Tensor:
    """`TinyGPTV.forward`, told how many targets there are: of a mask without data that cannot be asked."""
    image_BQD = model.images(batch)
    embeds_BSD, mask_BS = model.embed(batch, image_BQD)
    del image_BQD
    embeds_BSD, mask_BS = embeds_BSD[:, :-1], mask_BS[:, :-1]  # a sample's last token is read by none
    rows_K = torch.zeros(K, dtype=torch.int64)
    hidden_KD = model.llm.model(
        inputs_embeds=embeds_BSD, attention_mask=mask_BS.long(), use_cache=False, wanted=(rows_K, rows_K)
    ).last_hidden_state
    return summed_cross_entropy(model.llm.lm_head(hidden_KD), rows_K)


def inference(sizes: ModelSizes, load: Load, dtype: torch.dtype, bits: int) -> Memory:
    """Answers to `load`: its pictures seen, all its positions read at once, and kept in the cache.

    Args:
        bits: of the large Linears' weights: 16 for `dtype`, or as `quantize` has them, 8 or 4.
    """
    model = new_model(sizes, load.lora).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        fill_with_zeros(model, dtype)
        narrow_linears(model, dtype)
        batch = batch_of(load)
        with LiveBytes(_tensors(model, batch)) as live, _autocast(dtype):
            embeds_BSD, mask_BS = model.embed(batch, model.images(batch))
            cache = new_cache()
            last = torch.zeros(load.samples, dtype=torch.int64)
            out = model.llm.model(
                inputs_embeds=embeds_BSD,
                attention_mask=mask_BS.long(),
                past_key_values=cache,
                use_cache=True,
                wanted=(last, last),
            )
            model.llm.lm_head(out.last_hidden_state)
        large = large_linears(model).values()
        packed = sum(packed_bytes(item, bits) - item.weight.nbytes for item in large) if bits < 16 else 0
        # To compute with a packed weight it may have to be unpacked: the largest counts.
        unpacked = max(item.weight.nbytes for item in large) if bits < 16 else 0
        return Memory(fixed=weight_bytes(model) + packed, saved=0, moving=live.most + unpacked)


def weight_bytes(model: nn.Module) -> int:
    """Of all its weights and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def packed_bytes(linear: nn.Linear, bits: int) -> int:
    """Of a weight as `quantize` has it: 8 bit with a float32 for each row; 4 bit with a byte for each block of 64.

    Of each 256 of these bytes there is one more float32; the code tables, 1,092 bytes of a Linear, count as well.
    """
    weights = linear.weight.numel()
    if bits == 8:
        return weights + 4 * linear.out_features
    blocks = -(-weights // 64)
    return weights // 2 + blocks + 4 * -(-blocks // 256) + 4 * (16 + 256 + 1)


def _tensors(model: nn.Module, batch: Batch) -> list[Tensor]:
    """What is there before the work begins."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    inputs = [item for item in vars(batch).values() if isinstance(item, Tensor)]
    return [*model.parameters(), *model.buffers(), *gradients, *inputs]


def _autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)


def main() -> None:
    """Print both tables."""
    print("| training in bf16 | samples | positions | weights, optimizer | saved | peak | saved* | peak* |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for load in paper_loads():
        kept, again = (training(PAPER_SIZES, load, torch.bfloat16, recompute=recompute) for recompute in (False, True))
        positions = load.text + PAPER_SIZES.qformer.queries + load.targets
        values = (kept.fixed, kept.saved, kept.peak, again.saved, again.peak)
        print(
            f"| {load.name} | {load.samples} | {positions} | {' | '.join(f'{value / GIB:.1f}' for value in values)} |"
        )
    print("\n| inference | weights | the rest | peak |\n| --- | ---: | ---: | ---: |")
    for bits in (16, 8, 4):
        took = inference(PAPER_SIZES, PAPER_QUESTION, torch.float16, bits)
        values = (took.fixed, took.moving, took.peak)
        print(f"| {bits} bit | {' | '.join(f'{value / GIB:.2f}' for value in values)} |")


if __name__ == "__main__":
    main()
