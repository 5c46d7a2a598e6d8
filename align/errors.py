"""The errors a user can cause. The command line prints them without a traceback and exits with code 2."""


class UserError(Exception):
    """A mistake that the user can fix. The message names the place and the remedy."""


class RecipeError(UserError):
    """A recipe that cannot be run as written. `where` is the dotted path of the key at fault."""

    def __init__(self, where: str, problem: str):
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where, self.problem = where, problem

    def __reduce__(self):
        # The default calls the class with only the message, so a worker's error could not be unpickled.
        return RecipeError, (self.where, self.problem)


class RunStopped(UserError):
    """A run that stopped before its end. Computed results are kept; the message says why and where it stopped."""


class WriteFailed(RunStopped):
    """A file of the run that cannot be written: a full disk, or a folder without permission."""
