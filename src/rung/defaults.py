"""The model and the data that are used where the user names none, and the cache folder.

Both come in packages, so neither needs an account or a network.
"""

import os
from pathlib import Path

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_DATA = "pronounce"


def cache_folder() -> Path:
    """Where converted models and tokenised data are kept: $RUNG_CACHE, else ~/.cache/rung."""
    return Path(os.path.expanduser(os.environ.get("RUNG_CACHE") or "~/.cache/rung"))
