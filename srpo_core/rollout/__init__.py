"""How completions are sampled: the engine protocol and its engines."""
