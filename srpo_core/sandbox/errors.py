"""What goes wrong with a sandbox, as opposed to what runs in it."""


class SandboxUnavailable(RuntimeError):  # noqa: N818
    """This machine cannot isolate code; the message says why and what to install."""


class SandboxError(RuntimeError):
    """The sandbox itself failed, through no fault of what ran in it."""
