"""The one exception whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """Stop with one clear line instead of a traceback.

    Args:
      message: names the field or file, its value and what is accepted.
      exit_code: 2 for bad input, 1 for a failure of the run itself.
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code
