"""The policy and its update: log-probabilities, advantages, losses, trainer, checkpoints."""
