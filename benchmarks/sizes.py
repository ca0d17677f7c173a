"""The sizes of the networks that are compared; imports no framework."""

import dataclasses

CHANNELS = 3


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the example's constants are called there, at its values."""

    attention: str = "external"  # external | self
    side: int = 32  # pixels of an image's side
    patch: int = 2
    width: int = 64  # channels of a token
    hidden: int = 64  # of the MLP
    heads: int = 4
    coefficient: int = 4
    depth: int = 8
    classes: int = 100
    dropout: float = 0.2  # of attention, projection and MLP alike

    @property
    def tokens(self) -> int:
        return (self.side // self.patch) ** 2
