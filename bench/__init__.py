"""Measurements, each figure beside a reference from the same run: `python -m bench.NAME [--quick] [--json FILE]`."""
