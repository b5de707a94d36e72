"""Attention of queries over values by keys, dot-product and additive, as Keras defines it.

    Y = softmax(S) V        S[q, v] the score of key v for query q, less 1e9 where value v is masked

Query (B, Tq, D), value (B, Tv, E) and key (B, Tv, D), which is the value where it is not given.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm.errors import InputError, ShapeError
from fastlstm.layers.build import Tensor
from fastlstm.layers.layer import Layer, rate_of

MASKED = 1e9


class BaseAttention(Layer):
    """What Attention and AdditiveAttention share. A masked query gives zeros, and the output has the mask of the queries."""

    several = True
    seeded = True

    def __init__(self, use_scale: bool, dropout: float = 0.0, name: str | None = None, **options: Any):
        super().__init__(name, **options)
        self.use_scale, self.dropout = use_scale, rate_of(self, dropout)

    @property
    def differs_in_training(self) -> bool:
        return self.dropout > 0

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Add the nodes of S (B, Tq, Tv)."""
        raise NotImplementedError

    def call(self, x: Sequence[Tensor], return_attention_scores: bool = False, use_causal_mask: bool = False) -> Any:
        if len(x) not in (2, 3):
            raise self.fault(InputError, f"is called on [query, value] or [query, value, key], got {len(x)} inputs")
        for role, tensor in zip(("query", "value", "key"), x, strict=False):
            if len(tensor.shape) != 3:
                raise self.fault(ShapeError, f"{role} has shape {tensor.shape}, expected (batch, steps, features)")
        query, value, key = x[0], x[1], x[2] if len(x) > 2 else x[1]
        build, name = query.build, self.name
        scores = self.scores(query, key)
        for mask in self._masks(scores, value.mask, use_causal_mask):
            far = build.weight(f"{name}.masked", np.array(MASKED, scores.value.dtype))
            away = build.node(f"{name}/away", "Sub", [scores, far])
            scores = build.node(f"{name}/masked", "Where", [mask, scores, away])
        shares = build.node(f"{name}/softmax", "Softmax", [scores], axis=-1)
        if build.training and self.dropout:
            kept = build.drop(f"{name}.mask", shares.shape, self.dropout, shares.value.dtype.name, self)
            shares = build.node(f"{name}/dropout", "Mul", [shares, kept])
        y = build.node(name, "MatMul", [shares, value])
        if query.mask is not None:
            column = build.node(f"{name}/column", "Unsqueeze", [query.mask, build.ints(f"{name}.axes", -1)])
            zero = build.weight(f"{name}.zero", np.zeros((), y.value.dtype))
            y = build.node(f"{name}/valid", "Where", [column, y, zero]).with_mask(query.mask)
        return (y, shares) if return_attention_scores else y

    def _masks(self, scores: Tensor, of_value: Tensor | None, causal: bool) -> list[Tensor]:
        """Return the mask of the scores, none where every score counts; it broadcasts to (B, Tq, Tv)."""
        build, mask = scores.build, None
        if of_value is not None:
            mask = build.node(f"{self.name}/values", "Unsqueeze", [of_value, build.ints(f"{self.name}.axes", 1)])
        if causal:
            past = build.node(f"{self.name}/past", "CausalMask", [scores])
            mask = past if mask is None else build.node(f"{self.name}/causal", "And", [mask, past])
        return [] if mask is None else [mask]

    def pairs(self, query: Tensor, key: Tensor) -> Tensor:
        """Add q + k for every pair: (B, Tq, Tv, D)."""
        build, name = query.build, self.name
        q = build.node(f"{name}/query", "Unsqueeze", [query, build.ints(f"{name}.axes", 2)])
        k = build.node(f"{name}/key", "Unsqueeze", [key, build.ints(f"{name}.axes", 1)])
        return build.node(f"{name}/pairs", "Add", [q, k])

    def weighed(self, pairs: Tensor, scale: Tensor | None) -> Tensor:
        """Add the sum over the last axis, each feature times its scale (D,), as a product with one column."""
        build, name = pairs.build, self.name
        if scale is None:
            size = pairs.shape[-1]
            if not isinstance(size, int):
                raise self.fault(ShapeError, f"the query has {size} features, expected a number")
            scale = build.weight(f"{name}.ones", np.ones(size, pairs.value.dtype))
        column = build.node(f"{name}/scale", "Unsqueeze", [scale, build.ints(f"{name}.axes", -1)])
        sums = build.node(f"{name}/scores", "Dense", [pairs, column, None])
        return build.node(f"{name}/scores", "Squeeze", [sums, build.ints(f"{name}.axes", -1)])


class Attention(BaseAttention):
    """Dot-product attention: S = scale q k', or with score_mode="concat" S = weight sum(tanh(scale (q + k)))."""

    initial = {"scale": "ones", "concat_score_weight": "ones"}

    def __init__(
        self,
        use_scale: bool = False,
        score_mode: str = "dot",
        dropout: float = 0.0,
        name: str | None = None,
        **options: Any,
    ):
        super().__init__(use_scale, dropout, name, **options)
        if score_mode not in ("dot", "concat"):
            raise self.fault(InputError, f"score_mode={score_mode!r}: expected 'dot' or 'concat'")
        self.score_mode = score_mode

    @property
    def roles(self) -> tuple[str, ...]:
        scale = ("scale",) if self.use_scale else ()
        return (*scale, "concat_score_weight") if self.score_mode == "concat" else scale

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        return {"scale": (), "concat_score_weight": ()}

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        build, name = query.build, self.name
        scale = self.add_weight(build, "scale", "scale")
        if self.score_mode == "dot":
            turned = build.node(f"{name}/key", "Transpose", [key], perm=(0, 2, 1))
            scores = build.node(f"{name}/scores", "MatMul", [query, turned])
            return scores if scale is None else build.node(f"{name}/scaled", "Mul", [scores, scale])
        pairs = self.pairs(query, key)
        pairs = pairs if scale is None else build.node(f"{name}/scaled", "Mul", [pairs, scale])
        sums = self.weighed(build.node(f"{name}/tanh", "Tanh", [pairs]), None)
        weight = self.add_weight(build, "concat_score_weight", "concat_score_weight")
        return build.node(f"{name}/weighted", "Mul", [sums, weight])


class AdditiveAttention(BaseAttention):
    """Bahdanau's attention: S = sum(scale tanh(q + k)), scale (D,)."""

    initial = {"scale": "glorot_uniform"}

    def __init__(self, use_scale: bool = True, dropout: float = 0.0, name: str | None = None, **options: Any):
        super().__init__(use_scale, dropout, name, **options)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("scale",) if self.use_scale else ()

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        return {"scale": (x[0][-1] if x else None,)}

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        tanh = query.build.node(f"{self.name}/tanh", "Tanh", [self.pairs(query, key)])
        return self.weighed(tanh, self.add_weight(query.build, "scale", "scale"))
