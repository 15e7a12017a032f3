"""What no setting may hold, since settings are kept, shown and sent: credentials. They come from the environment."""

import re
from typing import Any

_IN_URL = re.compile(r"(?<=://)[^/\s]*@")
_NAMED = re.compile(
    r"(?:^|[_-])(?:token|secret|password|passwd|(?:api|access|private)[_-]?key|credentials?|auth)(?:$|[_-])"
)


def in_url(value: Any) -> bool:
    """Whether a text, or one of a list or of names by names, is a URL with a user or a password in it."""
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    return any(isinstance(each, str) and _IN_URL.search(each) is not None for each in members)


def is_secret(name: str) -> bool:
    """Whether an environment variable or an option of this name holds a secret, such as HF_TOKEN or --api-key."""
    return _NAMED.search(name.lower()) is not None


def hidden(text: str) -> str:
    """The text without the credentials of the URLs in it."""
    return _IN_URL.sub("***@", text)
