"""The one exception whose message is meant for the person at the keyboard, and text that may be shown to them."""


def printable(text: str) -> str:
    """Return a text with control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UserError(Exception):
    """Stop with one clear line instead of a traceback.

    Args:
      message: names the field or file, its value and what is accepted.
      exit_code: 2 for bad input, 1 for a failure of the run itself.
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code
