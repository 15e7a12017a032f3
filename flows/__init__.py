"""The pipeline: Prefect flows over srpo_core and storage, and the `srpo` command."""
