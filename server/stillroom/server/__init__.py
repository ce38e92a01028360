"""The consortium's side."""

import stillroom.common  # noqa: F401  # before any import of Flower: see there
