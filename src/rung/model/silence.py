"""Keep the libraries' progress bars, log lines and warnings off the terminal."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def silence_libraries() -> Iterator[None]:
    """Silence transformers, huggingface_hub and Python warnings inside the block.

    Rung draws its own progress, and the libraries' bars and messages would break it up.
    """
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    hub.setLevel(logging.ERROR)
    transformers_level = transformers_logging.get_verbosity()
    bars_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.setLevel(hub_level)
        transformers_logging.set_verbosity(transformers_level)
        if bars_enabled:
            transformers_logging.enable_progress_bar()
