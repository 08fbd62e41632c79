"""The packed engine: many adapters trained at once over one frozen base."""

# Before PEFT, which some modules import first, imports bitsandbytes: it is told there not to complain.
import rung.model  # noqa: F401
