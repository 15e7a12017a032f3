"""What can go wrong between the pipeline and the servers that sample for it."""


class EngineError(Exception):
    """Completions cannot be sampled; the message names the server and the remedy. Trying again would not help."""


class EngineUnavailableError(EngineError):
    """No server answers, and none came back within the engine's patience. Trying later may help."""


class StaleWeightsError(EngineError):
    """A server does not compute with the weights that it was given; nothing it samples may be learned from."""
