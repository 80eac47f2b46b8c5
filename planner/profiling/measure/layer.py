"""One real transformer layer on one GPU of a tensor-parallel group: forward, backward, optimizer.

Written on plain tensors: RMSNorm, rotary positions, grouped-query attention and SwiGLU, or LayerNorm, multi-head
attention and GELU with biases as in GPT. The all-reduces between the GPUs of the group are not part of it: they are
measured as collectives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from planner.profiling.measure.backend import Work
from planner.profiling.measure.points import Point, Results
from planner.profiling.measure.setup import Setup
from planner.profiling.measure.shapes import LayerShape

__all__ = ["Layer", "measure_serving_layer", "measure_training_layer", "serving_points", "training_points"]

_QUICK_SEQ: Final = 64
_SEQ: Final = 2048
_CPU_SEQ: Final = 256


class Layer:
    """Weights of one layer and how it is run.

    Parameters
    ----------
    setup
        Device and format.
    shape
        Its sizes.
    train
        Whether the weights take gradients.
    """

    def __init__(self, setup: Setup, shape: LayerShape, *, train: bool) -> None:
        self.torch, self.shape, self._setup = setup.backend.torch, shape, setup
        attention = shape.heads * shape.head_dim
        cached = shape.kv_heads * shape.head_dim
        self.weights: dict[str, Any] = {
            "qkv": self._weight(attention + 2 * cached, shape.hidden),
            "out": self._weight(shape.hidden, attention),
            "up": self._weight((2 if shape.gated else 1) * shape.ffn, shape.hidden),
            "down": self._weight(shape.hidden, shape.ffn),
            "norm1": self._weight(shape.hidden),
            "norm2": self._weight(shape.hidden),
        }
        if not shape.gated:
            widths = {"qkv": attention + 2 * cached, "out": shape.hidden, "up": shape.ffn, "down": shape.hidden}
            widths |= {"norm1": shape.hidden, "norm2": shape.hidden}
            self.weights |= {f"{name}_bias": self._weight(width) for name, width in widths.items()}
        for weight in self.weights.values():
            weight.requires_grad_(train)

    def _weight(self, *shape: int) -> Any:
        # In place: a scaled copy would be no leaf, and take no gradient.
        return self._setup.random(*shape, dtype=self._setup.half).mul_(0.02)

    def forward(self, x: Any, cache: tuple[Any, Any] | None = None) -> Any:
        """Run it.

        Parameters
        ----------
        x
            Activations, (batch, tokens, hidden).
        cache
            Keys and values of earlier tokens, (batch, KV heads, tokens, head dimension); with them, `x` is one token.
        """
        functional, shape = self.torch.nn.functional, self.shape
        batch, tokens, _ = x.shape
        projected = self._linear(self._norm(x, "norm1"), "qkv")
        sizes = [shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.kv_heads * shape.head_dim]
        query, key, value = (
            part.view(batch, tokens, -1, shape.head_dim).transpose(1, 2) for part in projected.split(sizes, dim=-1)
        )
        if shape.gated:
            query, key = self._rotated(query), self._rotated(key)
        if cache is not None:
            past_key, past_value = cache
            past_key[:, :, -1:] = key
            past_value[:, :, -1:] = value
            key, value = past_key, past_value
        attended = functional.scaled_dot_product_attention(
            query, key, value, is_causal=cache is None, enable_gqa=shape.heads != shape.kv_heads
        )
        x = x + self._linear(attended.transpose(1, 2).reshape(batch, tokens, -1), "out")
        up = self._linear(self._norm(x, "norm2"), "up")
        if shape.gated:
            gate, up = up.chunk(2, dim=-1)
            up = functional.silu(gate) * up
        else:
            up = functional.gelu(up)
        return x + self._linear(up, "down")

    def _linear(self, x: Any, name: str) -> Any:
        return self.torch.nn.functional.linear(x, self.weights[name], self.weights.get(f"{name}_bias"))

    def _norm(self, x: Any, name: str) -> Any:
        functional, width = self.torch.nn.functional, (self.shape.hidden,)
        if self.shape.gated:
            return functional.rms_norm(x, width, self.weights[name], 1e-5)
        return functional.layer_norm(x, width, self.weights[name], self.weights[f"{name}_bias"])

    def _rotated(self, x: Any) -> Any:
        torch, half = self.torch, self.shape.head_dim // 2
        place = torch.arange(x.shape[2], device=x.device, dtype=torch.float32)
        speed = 10000.0 ** -(torch.arange(half, device=x.device, dtype=torch.float32) / half)
        angle = place[:, None] * speed
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        left, right = x[..., :half], x[..., half:]
        return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


def _shape(point: Point, setup: Setup) -> LayerShape:
    name, tp = point.text("model"), point.whole("tp")
    return next(layer for layer in setup.shapes.layers if (layer.model, layer.tp) == (name, tp))


def _flops(shape: LayerShape, tokens: int) -> float:
    widths = shape.heads * 2 + shape.kv_heads * 2
    return 2.0 * tokens * shape.hidden * (widths * shape.head_dim + (3 if shape.gated else 2) * shape.ffn)


def training_points(setup: Setup) -> Iterator[Point]:
    """Every layer by microbatch, as far as the device can."""
    seq = _QUICK_SEQ if setup.quick else _SEQ if setup.backend.kind == "cuda" else _CPU_SEQ
    for shape in setup.shapes.layers:
        for microbatch in (1,) if setup.quick else (1, 2, 4):
            if 3 * _flops(shape, microbatch * seq) <= 4 * setup.backend.flop_limit:
                yield Point.of(
                    "training_layer",
                    "training_layer",
                    model=shape.model,
                    layer=0,
                    tp=shape.tp,
                    microbatch=microbatch,
                    seq_len=seq,
                )


def measure_training_layer(point: Point, setup: Setup) -> Results:
    """Time forward, backward and an AdamW step; nothing runs in a graph, as training seldom does."""
    shape, torch, backend = _shape(point, setup), setup.backend.torch, setup.backend
    batch, seq = point.wholes("microbatch", "seq_len")
    layer = Layer(setup, shape, train=True)
    x = setup.random(batch, seq, shape.hidden, dtype=setup.half).requires_grad_(True)
    weights = list(layer.weights.values())

    def both(_: int = 0) -> None:
        layer.forward(x).sum().backward()

    def cleared(_: int) -> None:
        both()
        for tensor in (x, *weights):
            tensor.grad = None

    memory = backend.peak_bytes(both)
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)
    update = backend.time(Work(lambda _: optimizer.step(), graph=False), setup.budget)
    forward = backend.time(Work(lambda _: layer.forward(x), graph=False), setup.budget)
    whole = backend.time(Work(cleared, graph=False), setup.budget)
    state = sum(weight.numel() * weight.element_size() for weight in weights) * 3  # itself, and Adam's two moments
    return {
        "forward": forward.seconds,
        # Noise must not make it negative; a backward pass is never cheaper than half a forward pass.
        "backward": max(whole.seconds - forward.seconds, 0.5 * forward.seconds),
        "update": update.seconds,
        "memory": float(memory + state) if memory else 0.0,
        "spread": max(forward.spread, whole.spread),
    }


def serving_points(setup: Setup) -> Iterator[Point]:
    """Every layer, forward only: prompts by tokens, decoding by sequences."""
    prompts = (64, 128) if setup.quick else (64, 256, 1024, 4096)
    decodes = ((1, 256), (8, 256)) if setup.quick else ((1, 1024), (8, 1024), (64, 1024), (8, 8192))
    for shape in setup.shapes.layers:
        for tokens in prompts:
            if _flops(shape, tokens) <= setup.backend.flop_limit:
                yield _serving(shape, "prefill", 1, tokens)
        for batch, context in decodes:
            yield _serving(shape, "decode", batch, context)


def _serving(shape: LayerShape, phase: str, batch: int, tokens: int) -> Point:
    return Point.of(
        "serving_layer", "serving_layer", model=shape.model, phase=phase, tp=shape.tp, batch=batch, tokens=tokens
    )


def measure_serving_layer(point: Point, setup: Setup) -> Results:
    """Time one layer forward."""
    shape, decode = _shape(point, setup), point.text("phase") == "decode"
    batch, tokens = point.wholes("batch", "tokens")
    with setup.backend.torch.no_grad():
        layer = Layer(setup, shape, train=False)
        x = setup.random(batch, 1 if decode else tokens, shape.hidden, dtype=setup.half)
        cache = None
        if decode:
            size = (batch, shape.kv_heads, tokens, shape.head_dim)
            cache = (setup.random(*size, dtype=setup.half), setup.random(*size, dtype=setup.half))
        sample = setup.backend.time(Work(lambda _: layer.forward(x, cache)), setup.budget)
    return {"seconds": sample.seconds, "spread": sample.spread}
