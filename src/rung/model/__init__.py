"""The frozen base model: loading it, and naming its parts."""

import logging

# On a CPU, bitsandbytes asks for a kernel from the hub as soon as it is imported, and complains where there is none.
# Rung does not use that kernel: see rung.engine.lora.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
