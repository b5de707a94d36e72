"""Attention of queries over values by keys, dot-product, additive and of several heads, as Keras defines it.

    Y = softmax(S) V        S[q, v] the score of key v for query q, less 1e9 where value v is masked

Query (B, Tq, D), value (B, Tv, E) and key (B, Tv, D), which is the value where it is not given.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Literal

import numpy as np

from fastlstm.errors import InputError, ShapeError, UnsupportedError
from fastlstm.layers.build import Tensor
from fastlstm.layers.layer import Layer, rate_of, size_of

MASKED = 1e9


class BaseAttention(Layer):
    """What Attention and AdditiveAttention share. A masked query gives zeros, and the output has the mask of the queries."""

    several = True
    seeded = True
    causal = False  # whether no query ever sees later values: Keras 2's argument of the layer

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
        for mask in self._masks(scores, value.mask, use_causal_mask or self.causal):
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


class MultiHeadAttention(Layer):
    """Attention of several heads, each of queries, keys and values of its own, whose outputs one more matrix joins.

    Weights: for query, key, value a kernel (D, heads, key_dim or value_dim) and a bias of the last two sizes, for the output a kernel
    (heads, value_dim, outputs) and a bias. A value counts for a query where both are valid. A query for which no value counts gets
    their mean; Keras from 3.10 on gives it nothing where its fused path is not taken, with dropout or scores (`masked` "unfused").
    """

    initial = {
        f"{part}_{role}": default
        for part in ("query", "key", "value", "output")
        for role, default in (("kernel", "glorot_uniform"), ("bias", "zeros"))
    }
    seeded = True
    ignored = ("flash_attention",)
    masked: Literal["mean", "unfused"] = "unfused"

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | Sequence[int] | None = None,
        attention_axes: int | Sequence[int] | None = None,
        name: str | None = None,
        **options: Any,
    ):
        for kind in ("kernel", "bias"):
            for end in ("initializer", "regularizer", "constraint"):
                given = options.pop(f"{kind}_{end}", None)
                if given is not None:
                    options |= {f"{part}_{kind}_{end}": given for part in ("query", "key", "value", "output")}
        super().__init__(name, **options)
        self.num_heads, self.key_dim = size_of(self, "num_heads", num_heads), size_of(self, "key_dim", key_dim)
        self.value_dim = self.key_dim if value_dim is None else size_of(self, "value_dim", value_dim)
        self.dropout, self.use_bias = rate_of(self, dropout), use_bias
        sizes = [output_shape] if isinstance(output_shape, int) else output_shape
        if sizes is not None and len(sizes) != 1:
            raise self.fault(UnsupportedError, f"output_shape={output_shape!r} is not supported, only one size")
        self.outputs = None if sizes is None else size_of(self, "output_shape", sizes[0])
        axes = [attention_axes] if isinstance(attention_axes, int) else attention_axes
        if axes is not None and list(axes) not in ([1], [-2]):
            raise self.fault(UnsupportedError, f"attention_axes={attention_axes!r} is not supported, only the steps")

    @property
    def roles(self) -> tuple[str, ...]:
        kinds = ("kernel", "bias") if self.use_bias else ("kernel",)
        return tuple(f"{part}_{kind}" for part in ("query", "key", "value", "output") for kind in kinds)

    @property
    def differs_in_training(self) -> bool:
        return self.dropout > 0

    def shapes_of(self, x: Any, arguments: Mapping[str, Any]) -> Any:
        value = arguments.get("value") or x
        return [x.shape, value.shape, (arguments.get("key") or value).shape]

    def weight_shapes(self, x: Any = None) -> dict[str, tuple[Any, ...]]:
        query, value, key = (shape[-1] for shape in x) if x else (None, None, None)
        heads = {"query": self.key_dim, "key": self.key_dim, "value": self.value_dim}
        inputs = {"query": query, "key": key, "value": value}
        shapes: dict[str, tuple[Any, ...]] = {}
        for part, size in heads.items():
            shapes |= {f"{part}_kernel": (inputs[part], self.num_heads, size), f"{part}_bias": (self.num_heads, size)}
        outputs = query if self.outputs is None else self.outputs
        return shapes | {"output_kernel": (self.num_heads, self.value_dim, outputs), "output_bias": (outputs,)}

    def call(
        self,
        x: Tensor,
        value: Tensor | None = None,
        key: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        if value is None:
            raise self.fault(InputError, "is called on a query and a value")
        given = key
        key = value if key is None else key
        for role, tensor in (("query", x), ("value", value), ("key", key)):
            if len(tensor.shape) != 3:
                raise self.fault(ShapeError, f"{role} has shape {tensor.shape}, expected (batch, steps, features)")
        build, name = x.build, self.name
        q, k, v = (self._heads(tensor, role) for tensor, role in ((x, "query"), (key, "key"), (value, "value")))
        scale = build.weight(f"{name}.scale", np.array(1 / sqrt(self.key_dim), x.value.dtype))
        turned = build.node(f"{name}/turned", "Transpose", [k], perm=(0, 1, 3, 2))
        scores = build.node(f"{name}/scores", "MatMul", [build.node(f"{name}/scaled", "Mul", [q, scale]), turned])
        masks = [(x.mask, -1), (value.mask, -2), (None if given is None else given.mask, -2)]
        mask = self._mask(scores, masks, attention_mask, use_causal_mask)
        if mask is not None:
            far = build.weight(f"{name}.masked", np.array(-MASKED, scores.value.dtype))
            scores = build.node(f"{name}/masked", "Where", [mask, scores, far])
        shares = build.node(f"{name}/softmax", "Softmax", [scores], axis=-1)
        fused = not self.dropout and not return_attention_scores
        if mask is not None and self.masked == "unfused" and not fused:
            zero = build.weight(f"{name}.zero", np.zeros((), shares.value.dtype))
            shares = build.node(f"{name}/counted", "Where", [mask, shares, zero])
        used = shares
        if build.training and self.dropout:
            kept = build.drop(f"{name}.mask", shares.shape, self.dropout, shares.value.dtype.name, self)
            used = build.node(f"{name}/dropout", "Mul", [shares, kept])
        joined = build.node(
            f"{name}/heads", "Transpose", [build.node(f"{name}/values", "MatMul", [used, v])], perm=(0, 2, 1, 3)
        )
        y = self._joined(build.node(f"{name}/joined", "MergeAxes", [joined], axis=2)).with_mask(x.mask)
        return (y, shares) if return_attention_scores else y

    def _weight(self, x: Tensor, part: str, *shape: int) -> tuple[Tensor, Tensor | None]:
        """Return a kernel as a matrix and a bias as a vector."""
        build, name = x.build, f"{self.name}.{part}"
        kernel, bias = (self.add_weight(build, f"{part}.{kind}", f"{part}_{kind}") for kind in ("kernel", "bias"))
        matrix = build.node(f"{name}.W", "Reshape", [kernel, build.ints(f"{name}.shape", *shape)])
        return matrix, None if bias is None else build.node(
            f"{name}.b", "Reshape", [bias, build.ints(f"{name}.flat", -1)]
        )

    def _heads(self, x: Tensor, part: str) -> Tensor:
        """Return (B, heads, T, size), the projection of x (B, T, D) to one part of each head."""
        build, name = x.build, f"{self.name}/{part}"
        size = self.value_dim if part == "value" else self.key_dim
        W, b = self._weight(x, part, -1, self.num_heads * size)
        flat = build.node(name, "Dense", [x.with_mask(None), W, b])
        heads = build.node(name, "Reshape", [flat, build.ints(f"{name}.heads", 0, 0, self.num_heads, size)])
        return build.node(name, "Transpose", [heads], perm=(0, 2, 1, 3))

    def _joined(self, heads: Tensor) -> Tensor:
        """Return the output of heads (B, T, heads * value_dim)."""
        W, b = self._weight(heads, "output", self.num_heads * self.value_dim, -1)
        return heads.build.node(self.name, "Dense", [heads, W, b])

    def _mask(
        self, scores: Tensor, masks: Sequence[tuple[Tensor | None, int]], given: Tensor | None, causal: bool
    ) -> Tensor | None:
        """Return which scores (B, heads, Tq, Tv) count, None where all do."""
        build, name = scores.build, self.name
        parts = [
            build.node(f"{name}/valid", "Unsqueeze", [mask, build.ints(f"{name}.axes", 1, 3 if axis == -1 else 2)])
            for mask, axis in masks
            if mask is not None
        ]
        if causal:
            parts.append(build.node(f"{name}/past", "CausalMask", [scores]))
        if given is not None:
            own: Tensor = given
            if own.value.dtype != bool:
                own = build.node(f"{name}/mask", "Cast", [own], to="bool")
            if len(own.shape) == 3:
                own = build.node(f"{name}/mask", "Unsqueeze", [own, build.ints(f"{name}.axes", 1)])
            parts.append(own)
        whole = None
        for part in parts:
            whole = part if whole is None else build.node(f"{name}/valid", "And", [whole, part])
        return whole
