"""Answers to math problems: taken from a completion, read as a mathematician reads them, and compared exactly."""
