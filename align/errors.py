"""The errors a user can cause. The command line prints them without a traceback and exits with code 2."""


class UserError(Exception):
    """A mistake the user can mend. The message names the place and the remedy."""


class RecipeError(UserError):
    """A recipe that cannot be run as written. `where` is the dotted path of the key at fault."""

    def __init__(self, where: str, problem: str):
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where, self.problem = where, problem

    def __reduce__(self):
        # The default would call the class with the message alone, and a worker's error would not arrive.
        return RecipeError, (self.where, self.problem)


class RunStopped(UserError):
    """A run that was stopped while it worked: what was computed is kept, the message says why and where."""

    learned = False
    """Updates of the batch it was stopped in are applied: a resumed run goes on with the next batch."""
