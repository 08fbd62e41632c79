"""What is tuned where the user names nothing: both come in packages, so neither needs an account or a hub."""

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_DATA = "pronounce"
