"""The update's objective in pure functions, one concept a file; `objective.py` puts them together.

Tokens of a micro-batch lie flat, completion after completion: float (T,), with `lengths` int64 (S,) tokens of each of
the S completions, T their sum. No function knows of the model, and none divides by a micro-batch's size: each token
has its weight in the mean over the whole optimizer step before the micro-batches are made.
"""
