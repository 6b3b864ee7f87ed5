"""The whole model: picture -> tower -> Q-Former -> projections -> splice -> Phi -> loss."""

import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinygptv_core.batch import Batch, BatchLayout
from tinygptv_core.layout import with_layout
from tinygptv_core.loss import summed_cross_entropy
from tinygptv_core.packing import Packing
from tinygptv_core.phi import FusedAttention, TinyPhi, no_mask
from tinygptv_core.qformer import QFormer
from tinygptv_core.splice import splice_image, splice_mask
from tinygptv_core.stage import Lora
from tinygptv_core.trainable import lora_parameters, require_gradients
from tinygptv_core.vision import VisionTower
from tinygptv_core.weights import Architecture, Backbones, without_weights

# Shape letters of this file: B batch, H = W side in pixels, Q image queries, E width of the Q-Former, D of the LLM,
# T text positions, S positions with the picture in place (T - 1 + Q, or T for text alone), P tokens of a packed batch,
# K targets, V vocabulary.


class TinyGPTV(nn.Module):
    """TinyGPT-V at any size. Source: arXiv:2312.16862."""

    def __init__(self, vision: VisionTower, qformer: QFormer, projections: nn.Sequential, llm: TinyPhi) -> None:
        super().__init__()
        self.vision = vision
        self.qformer = qformer
        self.projections = projections
        self.llm = llm
        require_gradients(self)

    @classmethod
    def from_backbones(cls, backbones: Backbones, lora: Lora | None, seed: int) -> "TinyGPTV":
        """A model with fresh projections, and fresh adapters if there is `lora`.

        It takes the backbones' modules as its own and puts the adapters into them: load them anew for
        another model. The projections are the same with and without `lora`.

        Args:
            seed: what the projections and then the adapters are drawn from, whatever torch's own seed is.
        """
        generator = torch.Generator().manual_seed(seed)
        projections = _new_projections(backbones.projection_widths, generator)
        if lora is not None:
            _add_adapters(backbones.llm, lora)
            _draw_adapters(backbones.llm, generator)
        return cls(backbones.vision, backbones.qformer, projections, backbones.llm)

    @classmethod
    def on_meta(cls, architecture: Architecture, lora: Lora | None) -> "TinyGPTV":
        """The model on torch's `meta` device: all names and shapes at full size, and no memory for its weights."""
        parts = without_weights(architecture)
        projections = _projections(architecture.projection_widths)
        if lora is not None:
            with torch.device("meta"):
                _add_adapters(parts.llm, lora)
        return cls(parts.vision, parts.qformer, projections, parts.llm).to("meta")

    @torch.no_grad()
    def encode_images(self, images_B3HW: Tensor) -> Tensor:
        """queries_BQE: what no stage changes, a pure function of the picture and its size. Without gradients."""
        return self.qformer(self.vision(images_B3HW))

    def project(self, queries_BQE: Tensor) -> Tensor:
        """image_BQD: the queries in the LLM's width."""
        return self.projections(queries_BQE)

    def embed(self, batch: Batch, image_BQD: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the LLM reads: (embeds_BSD, mask_BS), the picture's tokens in the place of the placeholder.

        Args:
            image_BQD: the projected pictures; None for text alone.

        Raises:
            ValueError: there are pictures and no slots, or slots and no pictures.
        """
        text_BTD = self.llm.get_input_embeddings()(batch.ids_BT)
        if image_BQD is None and batch.slot_B is None:
            return text_BTD, batch.mask_BT
        if image_BQD is None or batch.slot_B is None:
            raise ValueError(f"the batch of {batch.keys[:3]} has {'slots' if image_BQD is None else 'pictures'} only")
        embeds_BSD = splice_image(text_BTD, image_BQD.to(text_BTD.dtype), batch.slot_B)
        return embeds_BSD, splice_mask(batch.mask_BT, batch.slot_B, image_BQD.shape[1])

    def images(self, batch: Batch) -> Tensor | None:
        """image_BQD from the batch's queries where it has them, else from its pictures; None for text alone."""
        queries_BQE = batch.queries_BQE
        if queries_BQE is None and batch.images_B3HW is not None:
            queries_BQE = self.encode_images(batch.images_B3HW)
        return None if queries_BQE is None else self.project(queries_BQE)

    def with_layout(self, batch: Batch, *, packed: bool) -> Batch:
        """`batch` with its layout, if it has none; on the CPU, so that `forward` on a GPU waits for nothing.

        Raises:
            ValueError: as `forward` does.
        """
        if batch.layout is None:
            return with_layout(batch, self.qformer.num_queries, packed=packed)
        assert packed == (batch.layout.packing is not None)
        return batch

    def forward(self, batch: Batch, *, packed: bool = False) -> tuple[Tensor, Tensor]:
        """The loss, as a sum: it is divided by the number of targets of all ranks, not of this batch.

        Args:
            batch: padded on the right.
            packed: compute the same without the padding, all samples in one row.

        Returns:
            (loss_sum, num_targets): the cross-entropy summed over the batch's target tokens, in nats,
            float32; and how many they are, int64.

        Raises:
            ValueError: there are pictures and no slots, or slots and no pictures; or the batch is to be packed
                and a target follows a position that is not attended to.
        """
        batch = self.with_layout(batch, packed=packed)
        logits_KV, labels_K, _ = self._targets(batch, self.images(batch))
        return summed_cross_entropy(logits_KV, labels_K), labels_K.new_full((), len(labels_K))

    def row_losses(self, batch: Batch, image_BQD: Tensor | None) -> Tensor:
        """loss_B: the mean cross-entropy of each sample's own targets, in nats, float32; 0 where it has none.

        Args:
            batch, image_BQD: as for `embed`; padded on the right.
        """
        logits_KV, labels_K, row_K = self._targets(self.with_layout(batch, packed=False), image_BQD)
        loss_K = functional.cross_entropy(logits_KV.float(), labels_K, reduction="none")
        sum_B = loss_K.new_zeros(len(batch.keys)).index_add(0, row_K, loss_K)
        return sum_B / row_K.bincount(minlength=len(batch.keys)).clamp(min=1)

    def _targets(self, batch: Batch, image_BQD: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of a batch with its layout (logits_KV, labels_K, row_K), row by row.

        Logits are computed for targets alone: V is wide, K is small.
        """
        layout = batch.layout
        assert layout is not None
        embeds_BSD, mask_BS = self.embed(batch, image_BQD)
        if layout.packing is None:
            hidden_KD = self._read(embeds_BSD, mask_BS, layout)
        else:
            hidden_KD = self._read_packed(embeds_BSD, layout.packing, layout)
        return self.llm.lm_head(hidden_KD), layout.labels_K, layout.row_K

    def _read(self, embeds_BSD: Tensor, mask_BS: Tensor, layout: BatchLayout) -> Tensor:
        """hidden_KD of the positions that predict a target."""
        embeds_BSD, mask_BS = embeds_BSD[:, : layout.length], mask_BS[:, : layout.length]
        # Positions count from the left even where the mask has holes: the reference trains so.
        out = self.llm.model(
            inputs_embeds=embeds_BSD,
            attention_mask=self.llm.ready_mask(embeds_BSD, None if layout.is_full else mask_BS),
            use_cache=False,
            wanted=(layout.row_K, layout.position_K),
        )
        return out.last_hidden_state

    def _read_packed(self, embeds_BSD: Tensor, packing: Packing, layout: BatchLayout) -> Tensor:
        """The same of the positions that are attended to and read alone, in one row."""
        assert layout.place_K is not None
        out = self.llm.model(
            inputs_embeds=packing.take(embeds_BSD)[None],
            attention_mask=no_mask(embeds_BSD),
            position_ids=packing.position_P[None],
            use_cache=False,
            packing=packing.on(embeds_BSD.device),
            wanted=(torch.zeros_like(layout.place_K), layout.place_K),
        )
        return out.last_hidden_state


def _projections(widths: tuple[int, ...]) -> nn.Sequential:
    """`llama_proj`, `llama_proj2`, ...: a Linear from each width to the next, nothing between them; on `meta`."""
    names = ["llama_proj" if number == 1 else f"llama_proj{number}" for number in range(1, len(widths))]
    linears = [nn.Linear(come, go, device="meta") for come, go in pairwise(widths)]
    return nn.Sequential(OrderedDict(zip(names, linears, strict=True)))


def _new_projections(widths: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    chain = _projections(widths).to_empty(device="cpu")
    for linear, come in zip(chain, widths[:-1], strict=True):
        _draw(linear.get_parameter("weight"), come, generator)
        _draw(linear.get_parameter("bias"), come, generator)
    return chain


def _draw(parameter: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """Uniform in +-1/sqrt(fan_in), as torch begins a Linear and peft an adapter; drawn on the CPU for every device."""
    bound = fan_in**-0.5
    values = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
    with torch.no_grad():
        parameter.copy_(values)


def _add_adapters(llm: TinyPhi, lora: Lora) -> None:
    """Put LoRA on both Linears of every attention block: found by what the block is, since others have a `dense`."""
    blocks = [name for name, module in llm.named_modules() if isinstance(module, FusedAttention)]
    with torch.random.fork_rng(devices=[]), unseen("bitsandbytes"):
        # Two seconds in every process, for layers that are not used.
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType] -- peft only divides it by the rank
            lora_dropout=lora.dropout,
            target_modules=[f"{block}.{linear}" for block in blocks for linear in ("query_key_value", "dense")],
        )
        inject_adapter_in_model(config, llm)


def _draw_adapters(llm: TinyPhi, generator: torch.Generator) -> None:
    for name, parameter in lora_parameters(llm).items():
        parameter.data = parameter.data.float()  # 16 bit adapters lose what a small rate changes
        if ".lora_A." in name:
            _draw(parameter, parameter.shape[1], generator)


@contextmanager
def unseen(module: str) -> Iterator[None]:
    """Whoever looks for `module` meanwhile finds it not installed, unless it is imported already."""
    modules: dict[str, Any] = sys.modules
    if module in modules:
        yield
        return
    modules[module] = None
    try:
        yield
    finally:
        del modules[module]
