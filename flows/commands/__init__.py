"""The `srpo` command's larger parts, one file each; flows/cli.py puts them together."""
