"""The exceptions that Rung raises, as a tree.

::

    RungError                 every error that Rung reports itself; exit code 1
    ├── InputError            the user's input is wrong; exit code 2
    │   ├── RecipeError       a key or a value of the recipe, or an option
    │   ├── ModelError        a model that is missing, or that Rung cannot train
    │   ├── TargetError       target modules that the model does not have
    │   ├── DataError         a file, a row or a split
    │   ├── MetricError       an unknown metric, or a user's own metric that fails
    │   ├── FolderError       a folder that cannot be written to
    │   └── StudyError        a study folder that is damaged, in use, or of another recipe
    └── TrainingError         no candidate could be trained to the end

Every message is one sentence: what was found, where, and the remedy.
"""


class RungError(Exception):
    """Every error that Rung reports itself.

    The command line prints the message and exits with `exit_code`.
    """

    exit_code = 1


class InputError(RungError):
    """The user's input is wrong."""

    exit_code = 2


class RecipeError(InputError):
    """A key or a value of the recipe, or an option of the command line, is wrong."""


class ModelError(InputError):
    """A model is missing, or Rung cannot train it."""


class TargetError(InputError):
    """The model does not have these target modules."""


class DataError(InputError):
    """A data file is missing or empty, a row lacks fields, or a split is too small."""


class MetricError(InputError):
    """A metric is unknown, or the user's own metric failed."""


class FolderError(InputError):
    """A folder cannot be written to."""


class StudyError(InputError):
    """A study folder is damaged, in use by another process, or belongs to another recipe."""


class TrainingError(RungError):
    """No candidate could be trained to the end."""
