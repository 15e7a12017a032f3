"""What can be wrong with a policy. Apart from the model, so that a command can tell it without loading torch."""


class PolicyError(Exception):
    """A policy that cannot be used; the message names the directory and the remedy."""
