"""How fast answers are verified, math and code, beside what a caller would pay without this package."""

from bench.code_verifier import code_figures
from bench.figures import options, tell
from bench.math_verifier import math_figures


def main() -> None:
    """Measure and tell."""
    asked = options(__doc__ or "")
    tell([*math_figures(asked.quick), *code_figures(asked.quick)], asked)


if __name__ == "__main__":
    main()
