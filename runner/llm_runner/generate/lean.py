"""A decoder of our own for architectures like Llama: the library's weights, far fewer calls a token.

It checks nothing that the library checks in every layer, fuses projections of the same input, and reads and writes
the block-wise cache. In float32 it gives the library's logits. What isn't exactly of a known form is left to the
library (``plan_lean`` says why).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import rms_norm
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from llm_runner.generate.cache_tensors import LayerShape, PagedCache
from llm_runner.generate.compiled import can_compile
from llm_runner.generate.engine_attention import AttentionRule, paged_attention
from llm_runner.generate.engine_batch import StepBatch
from llm_runner.generate.lean_adapter import InputScale, LeanAdapter
from llm_runner.generate.lean_compiled import add_and_normalize, gate_by_silu, rotate
from llm_runner.generate.lean_projection import Projection

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM")
STEADY_ROPES = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose angles depend on a token's position alone, not on how long its sequence is."""

AdapterRuns = Sequence[tuple[LeanAdapter | None, slice]]


def plan_lean(model: PreTrainedModel) -> str | None:
    """None where LeanDecoder can run the model, else why it can't."""
    name = type(model).__name__
    if name not in ARCHITECTURES:
        return f"{name} is not of a form that it knows"
    rope = str((getattr(model.config, "rope_parameters", None) or {}).get("rope_type"))
    if rope not in STEADY_ROPES:
        return f"rotary embeddings of type {rope} depend on the length of a sequence"
    return None


class Norm:
    """RMS norm with the weight as it is applied."""

    def __init__(self, module: Any) -> None:
        is_offset = type(module).__name__ == "GemmaRMSNorm"
        self._weight = (1.0 + module.weight.data.float()).to(module.weight.dtype) if is_offset else module.weight.data
        self._eps = float(module.eps if hasattr(module, "eps") else module.variance_epsilon)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, (x.shape[-1],), self._weight, self._eps)

    def add(self, x: torch.Tensor, change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum [tokens, size], and its norm."""
        if self._weight.dtype == x.dtype and can_compile(x.dtype, x.device):
            return add_and_normalize(x, change, self._weight, self._eps)
        x = x + change
        return x, self(x)


class AdaptedProjection:
    """A projection, and what each adapter changes of it."""

    def __init__(self, parent: str, names: Sequence[str], module: nn.Module, *, packs: bool) -> None:
        self.paths = [f"{parent}.{name}" if parent else name for name in names]
        self._base = Projection([getattr(module, name) for name in names], packs=packs)

    @property
    def widths(self) -> list[int]:
        return self._base.widths

    def __call__(self, x: torch.Tensor, runs: AdapterRuns) -> torch.Tensor:
        if not runs:
            return self._base(x)
        x = self._scale_inputs(x, runs)
        output = self._base(x)
        for adapter, rows in runs:
            if adapter is not None:
                self._change(adapter, x[rows], output[rows])
        return output

    def _scale_inputs(self, x: torch.Tensor, runs: AdapterRuns) -> torch.Tensor:
        factors = [(change.factor, rows) for adapter, rows in runs for change in self._input_scales(adapter)]
        if not factors:
            return x
        scaled = x.clone()
        for factor, rows in factors:
            scaled[rows] *= factor
        return scaled

    def _input_scales(self, adapter: LeanAdapter | None) -> list[InputScale]:
        changes = [] if adapter is None else adapter.get(self.paths[0], [])
        return [change for change in changes if isinstance(change, InputScale)]

    def _change(self, adapter: LeanAdapter, x: torch.Tensor, output: torch.Tensor) -> None:
        for path, part in zip(self.paths, output.split(self.widths, dim=-1), strict=True):
            for change in adapter.get(path, ()):
                if not isinstance(change, InputScale):
                    change(x, part)


@dataclass(frozen=True)
class Attention:
    """The attention of one layer."""

    layer: int
    qkv: AdaptedProjection
    out: AdaptedProjection
    query_norm: Norm | None
    key_norm: Norm | None
    head_size: int
    rule: AttentionRule

    def __call__(self, x: torch.Tensor, rotation: "Rotation", step: "Step") -> torch.Tensor:
        heads = self.qkv(x, step.runs).unflatten(-1, (-1, self.head_size))
        query_width, key_width, value_width = (width // self.head_size for width in self.qkv.widths)
        parts = [query_width, key_width, value_width]
        if self.query_norm is not None and self.key_norm is not None:
            query, key, value = heads.split(parts, dim=1)
            heads = torch.cat([self.query_norm(query), self.key_norm(key), value], dim=1)
        query, key, value = rotation(heads, query_width + key_width).transpose(0, 1).split(parts)
        attended = paged_attention(step.cache.layers[self.layer], step.batch, query, key, value, self.rule)
        return self.out(attended.transpose(0, 1).flatten(1), step.runs)


@dataclass(frozen=True)
class Rotation:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864) of one step's tokens, in the library's layout."""

    cos: torch.Tensor
    """[tokens, 1, head size]"""
    sin: torch.Tensor

    def __call__(self, heads: torch.Tensor, count: int) -> torch.Tensor:
        """The first ``count`` of [tokens, heads, head size] rotated, where they are if that can be."""
        if self.cos.dtype == heads.dtype and can_compile(heads.dtype, heads.device):
            rotate(heads, count, self.cos, self.sin)
            return heads
        own, rest = heads[:, :count], heads[:, count:]
        first, second = own.chunk(2, dim=-1)
        return torch.cat([own * self.cos + torch.cat([-second, first], dim=-1) * self.sin, rest], dim=1)


@dataclass(frozen=True)
class Layer:
    """One of the decoder's layers."""

    attention: Attention
    attention_norm: Norm
    gate_up: AdaptedProjection
    down: AdaptedProjection
    activation: nn.Module
    feedforward_norm: Norm

    def __call__(
        self, x: torch.Tensor, normed: torch.Tensor, rotation: Rotation, step: "Step"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of ``x`` [tokens, size] and its ``attention_norm``: what comes of it, and what is still to be added."""
        x, normed = self.feedforward_norm.add(x, self.attention(normed, rotation, step))
        return x, self.down(self._gate(self.gate_up(normed, step.runs)), step.runs)

    def _gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        if isinstance(self.activation, nn.SiLU | SiLUActivation) and can_compile(gate_up.dtype, gate_up.device):
            return gate_by_silu(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        gated: torch.Tensor = self.activation(gate) * up
        return gated


@dataclass(frozen=True)
class Step:
    """What every layer of one step needs."""

    batch: StepBatch
    cache: PagedCache
    runs: AdapterRuns
    """Empty where no sequence has an adapter."""


class LeanDecoder:
    """Give it a model for which ``plan_lean`` has nothing to say; its weights are shared, and copied where it packs."""

    def __init__(self, model: PreTrainedModel, *, packs: bool = False) -> None:
        decoder: Any = model.get_decoder()
        self._embed = decoder.embed_tokens
        self._rotary = decoder.rotary_emb
        self._layers = [_build_layer(layer, number, packs) for number, layer in enumerate(decoder.layers)]
        self._norm = Norm(decoder.norm)
        self._head = AdaptedProjection("", ["lm_head"], model, packs=packs)
        self._adapters: dict[str, LeanAdapter] = {}

    @property
    def shapes(self) -> dict[int, LayerShape]:
        return {layer.attention.layer: _shape_of(layer.attention) for layer in self._layers}

    def add_adapter(self, name: str, adapter: LeanAdapter) -> bool:
        """False where it changes what this decoder can't."""
        single = {path for layer in self._layers for path in (*layer.attention.out.paths, *layer.down.paths)}
        fused = {path for layer in self._layers for path in (*layer.attention.qkv.paths, *layer.gate_up.paths)}
        single |= set(self._head.paths)
        if not all(_is_applicable(path, changes, single, fused) for path, changes in adapter.items()):
            return False
        self._adapters[name] = adapter
        return True

    def remove_adapter(self, name: str) -> None:
        self._adapters.pop(name, None)

    def knows_adapter(self, name: str | None) -> bool:
        return name is None or name in self._adapters

    def __call__(self, batch: StepBatch, cache: PagedCache) -> torch.Tensor:
        """Logits [pieces that want them, vocabulary] in the model's type."""
        runs = [(None if name is None else self._adapters[name], rows) for name, rows in batch.adapters]
        step = Step(batch, cache, runs if any(adapter is not None for adapter, _ in runs) else [])
        x = self._embed(batch.token_ids)
        cos, sin = self._rotary(x[None], position_ids=batch.positions[None])
        rotation = Rotation(cos[0, :, None], sin[0, :, None])
        norms = [layer.attention_norm for layer in self._layers]
        normed = norms[0](x)
        for layer, next_norm in zip(self._layers, [*norms[1:], self._norm], strict=True):
            x, change = layer(x, normed, rotation, step)
            x, normed = next_norm.add(x, change)
        return self._head(normed[batch.sampled_rows], _sampled_runs(step))


def _sampled_runs(step: Step) -> AdapterRuns:
    """The adapters' runs among those tokens that logits are wanted of."""
    if not step.runs:
        return []
    rows = step.batch.sampled_rows.tolist()
    counts = [sum(run.start <= row < run.stop for row in rows) for _, run in step.runs]
    ends = [sum(counts[: place + 1]) for place in range(len(counts))]
    return [
        (adapter, slice(end - count, end)) for (adapter, _), count, end in zip(step.runs, counts, ends, strict=True)
    ]


def _is_applicable(path: str, changes: Sequence[Any], single: set[str], fused: set[str]) -> bool:
    if not changes or path in single:
        return True
    return path in fused and not any(isinstance(change, InputScale) for change in changes)


def _shape_of(attention: Attention) -> LayerShape:
    _, key_width, _ = attention.qkv.widths
    return LayerShape(key_width // attention.head_size, attention.head_size, attention.head_size)


def _build_layer(layer: Any, number: int, packs: bool) -> Layer:
    path = f"model.layers.{number}"
    return Layer(
        attention=_build_attention(layer.self_attn, f"{path}.self_attn", number, packs),
        attention_norm=Norm(layer.input_layernorm),
        gate_up=AdaptedProjection(f"{path}.mlp", ["gate_proj", "up_proj"], layer.mlp, packs=packs),
        down=AdaptedProjection(f"{path}.mlp", ["down_proj"], layer.mlp, packs=packs),
        activation=layer.mlp.act_fn,
        feedforward_norm=Norm(layer.post_attention_layernorm),
    )


def _build_attention(attention: Any, path: str, number: int, packs: bool) -> Attention:
    return Attention(
        layer=number,
        qkv=AdaptedProjection(path, ["q_proj", "k_proj", "v_proj"], attention, packs=packs),
        out=AdaptedProjection(path, ["o_proj"], attention, packs=packs),
        query_norm=Norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        key_norm=Norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        head_size=int(attention.head_dim),
        rule=AttentionRule(float(attention.scaling), _window_of(attention)),
    )


def _window_of(attention: Any) -> int | None:
    """Mistral's layers have none of their own: all of them take the config's."""
    if hasattr(attention, "sliding_window"):
        own: int | None = attention.sliding_window
        return own
    if type(attention).__name__ == "MistralAttention":
        window: int | None = getattr(attention.config, "sliding_window", None)
        return window
    return None
