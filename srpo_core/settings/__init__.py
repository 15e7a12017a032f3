"""The sections of a run's settings: every field with its unit, its bounds and what it does."""
