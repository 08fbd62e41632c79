"""What can go wrong, as a tree.

::

    RungError                 anything Rung says itself; exit code 1
    ├── InputError            the user's input is wrong; exit code 2
    │   ├── RecipeError       a key, a value or an option
    │   ├── ModelError        a model that is not there, or that Rung cannot train
    │   ├── TargetError       target modules that the model does not have
    │   ├── DataError         a file, a row or a split
    │   ├── MetricError       a metric that is not there, or the user's own that fails
    │   ├── FolderError       a folder that cannot be written to
    │   └── StudyError        a study folder that is damaged, in use, or belongs to another question
    └── TrainingError         no candidate could be trained to the end

Every message is one sentence that says what was found, where, and what to do about it.
"""


class RungError(Exception):
    """Anything that Rung says itself. The command line prints the message and exits with `exit_code`."""

    exit_code = 1


class InputError(RungError):
    """The user's input is wrong."""

    exit_code = 2


class RecipeError(InputError):
    """A key or a value of the recipe, or an option of the command line."""


class ModelError(InputError):
    """A model that is not there, or that Rung cannot train."""


class TargetError(InputError):
    """Target modules that the model does not have."""


class DataError(InputError):
    """A data file that is missing or empty, a row without its fields, a split that is too small."""


class MetricError(InputError):
    """A metric that is not there, or the user's own, which failed."""


class FolderError(InputError):
    """A folder that cannot be written to."""


class StudyError(InputError):
    """A study folder that is damaged, in use by another process, or belongs to another question."""


class TrainingError(RungError):
    """No candidate could be trained to the end."""
