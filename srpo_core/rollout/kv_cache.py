"""Keys and values of a batch whose rows split and leave: written in place, rows copied only when asked."""

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

GROWTH_SLOTS = 64


class GroupCache(Cache):
    """The cache of a decoder: one layer of keys and values (rows, heads, slots, head size) per model layer."""

    def __init__(self, n_layers: int) -> None:
        self._group_layers = [_Layer() for _ in range(n_layers)]
        super().__init__(layers=[*self._group_layers])

    @property
    def length(self) -> int:
        """Slots in use: tokens fed so far, padding included."""
        return self._group_layers[0].length

    def keep_rows(self, keep: Tensor) -> None:
        """Go on with the rows at the places `keep`, int64: some more than once, others no more."""
        for layer in self._group_layers:
            layer.select_rows(keep)


class _Layer(CacheLayerMixin):
    """Keys and values of one layer; slots beyond `length` are reserved for tokens to come."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[-2]
        if self.length > self.keys.shape[-2]:
            self.keys, self.values = self._grown(self.keys, start), self._grown(self.values, start)
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def _grown(self, old: Tensor, used: int) -> Tensor:
        rows, heads, _, size = old.shape
        new = old.new_empty(rows, heads, self.length + max(GROWTH_SLOTS, self.length // 2), size)
        new[:, :, :used] = old[:, :, :used]
        return new

    def select_rows(self, rows: Tensor) -> None:
        self.keys = self.keys.index_select(0, rows)
        self.values = self.values.index_select(0, rows)

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return -1
