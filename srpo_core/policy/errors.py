"""What can be wrong with a policy. Apart from the model, so that a command can tell it without loading torch."""

from collections.abc import Mapping, Sequence


class PolicyError(Exception):
    """A policy that cannot be used; the message names the directory and the remedy."""


class NotFiniteError(PolicyError):
    """An update that would not be finite, and was not made.

    `tensors`: how many numbers of each named tensor are NaN or infinite; `rows`: the places in the batch of the
    rollouts that did it, or of all that may have.
    """

    def __init__(self, tensors: Mapping[str, int], rows: Sequence[int]) -> None:
        """Tell the first tensors by name."""
        self.tensors = dict(tensors)
        self.rows = [int(row) for row in rows]
        names = list(self.tensors)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        super().__init__(f"not finite: {', '.join(names[:3])}{more}, with {len(self.rows)} rollouts of the batch")
