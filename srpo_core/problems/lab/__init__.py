"""The lab: a procedural world of short reasoning, its tokenizer, and a tiny base policy that half masters it."""

from pathlib import Path


def base_policy_dir() -> Path:
    """Folder of the packaged base policy: config, weights and tokenizer, loadable offline by `from_pretrained`."""
    return Path(__file__).parent / "base"
