"""Code that runs inside the sandbox: standard library only, nothing of the host's packages is there."""
