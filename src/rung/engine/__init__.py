"""The packed engine: many adapters trained at once over one frozen base."""

# It must run before PEFT, which some modules import first, imports bitsandbytes: it silences it.
import rung.model  # noqa: F401
