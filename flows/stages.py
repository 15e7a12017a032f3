"""The two training stages of SRPO, as the history numbers them; 0 is the base policy, before training."""

MATH = 1
MATH_AND_CODE = 2
