"""The one place of the versions."""

from typing import Final

VERSION: Final = "0.1.0"

#: What the processes of one server say to each other: on the bus, between two workers, on the scoreboard, on an errand.
#: To be raised with each change of that. A reload lets processes of two versions work together if it is the same.
PROTOCOL: Final = 3
