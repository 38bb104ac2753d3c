"""Products W ⊙ (BA) kept between evaluation passes.

Rebuilding the product costs r multiplications a weight; a decoded token needs one. A kept product
is used only while all that it was made from is provably the same. `limit_kept_products` says how
many bytes they may take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gatera.errors import InputError

DEFAULT_LIMIT_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class _Entry:
    """A product and what it was made from.

    The sources' memory is held, so that an equal address means the same memory. Versions tell
    in-place changes, but not those made through `.data`: the small sources on a CPU are therefore
    compared by value too. (Not on an accelerator, where every comparison would wait for it.)
    """

    product: Tensor
    sources: tuple[Tensor, ...]
    versions: tuple[int, ...]
    copies: tuple[Tensor, ...]  # of the small sources: all but the first, the base weight

    def still_holds(self, sources: tuple[Tensor, ...]) -> bool:
        if len(sources) != len(self.sources):
            return False
        for now, then, version in zip(sources, self.sources, self.versions, strict=True):
            if now.data_ptr() != then.data_ptr() or now._version != version:
                return False
        small = zip(sources[1:], self.copies, strict=False)
        return all(torch.equal(now, then) for now, then in small)


class ProductCache:
    """Keeps products by layer and key, up to a number of bytes over all layers.

    Layers are held weakly: the products of a model go when it goes, and are neither copied nor
    pickled with it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._entries: WeakKeyDictionary[nn.Module, dict[object, _Entry]] = WeakKeyDictionary()

    def get(
        self,
        layer: nn.Module,
        key: object,
        sources: tuple[Tensor, ...],
        build: Callable[[], Tensor],
    ) -> Tensor:
        """Return what `build` returns, from memory where its sources have not changed.

        Args:
            layer: Whose product it is.
            key: Which of the layer's products, such as the adapter's name and the type.
            sources: What `build` reads: the base weight first, then the small parameters.
            build: Makes the product.
        """
        if any(source.is_inference() for source in sources):  # they have no version
            return build()
        entry = self._entries.get(layer, {}).get(key)
        if entry is not None and entry.still_holds(sources):
            return entry.product
        product = build()
        self._entries.get(layer, {}).pop(key, None)
        if self.used_bytes() + product.nbytes <= self.limit_bytes:
            self._entries.setdefault(layer, {})[key] = _Entry(
                product,
                tuple(source.detach() for source in sources),
                tuple(source._version for source in sources),
                tuple(s.detach().clone() for s in sources[1:] if s.device.type == "cpu"),
            )
        return product

    def discard(self, layer: nn.Module) -> None:
        """Forget the layer's products."""
        self._entries.pop(layer, None)

    def clear(self) -> None:
        """Forget the products of all layers."""
        self._entries.clear()

    def used_bytes(self) -> int:
        """Bytes of all products kept."""
        return sum(e.product.nbytes for entries in self._entries.values() for e in entries.values())


products = ProductCache(DEFAULT_LIMIT_BYTES)


def limit_kept_products(limit_bytes: int) -> None:
    """Set how many bytes of products all layers together may keep in evaluation.

    A product takes what the layer's weight does, in the type that it computes in: five
    projections of each block of an 8B LLaMA take 8.5 GiB in bfloat16, of which the default of
    2 GiB keeps 7 of 32 blocks. Layers beyond the limit build their product again in each pass.

    Args:
        limit_bytes: 0 keeps none. Where more is kept at the moment, all of it goes.

    Raises:
        InputError: the limit is negative.
    """
    if limit_bytes < 0:
        raise InputError(
            f"limit_bytes={limit_bytes!r} is not a number of bytes; give 0 to keep no products."
        )
    products.limit_bytes = limit_bytes
    if products.used_bytes() > limit_bytes:
        products.clear()
