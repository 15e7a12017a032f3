"""What is measured on the held-out problems."""

from srpo_core.settings.section import PositiveInt, Section


class EvaluationSettings(Section):
    """Evaluation on held-out problems."""

    samples: PositiveInt = 4
    """Completions per held-out problem; pass@1 is their mean."""
    every_epochs: PositiveInt = 1
    """An evaluation follows every so many epochs, and each stage's last epoch always."""
