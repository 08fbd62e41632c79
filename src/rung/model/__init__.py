"""The frozen base model: loading it, checking it, and naming its parts."""

import logging

# On a CPU, bitsandbytes asks the hub for a kernel as soon as it is imported, and warns where it
# gets none. Rung does not use that kernel: see rung.engine.lora.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
