"""Runs untrusted programs: isolation probed at start, limits, warm processes. Knows nothing of rewards."""

from srpo_core.sandbox.errors import SandboxError, SandboxUnavailable
from srpo_core.sandbox.isolation import Isolation, isolate, probe
from srpo_core.sandbox.limits import Limits
from srpo_core.sandbox.profile import Profile

__all__ = ["Isolation", "Limits", "Profile", "SandboxError", "SandboxUnavailable", "isolate", "probe"]
