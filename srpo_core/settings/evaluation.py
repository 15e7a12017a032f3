"""What is measured on the held-out problems."""

from typing import Annotated

from srpo_core.settings.section import MayChange, PositiveInt, Section


class EvaluationSettings(Section):
    """Evaluation on held-out problems."""

    samples: PositiveInt = 4
    """Completions per held-out problem; pass@1 is their mean."""
    every_epochs: Annotated[PositiveInt, MayChange.AHEAD] = 1
    """An evaluation follows every so many epochs, and each stage's last epoch always."""
