"""A whole consortium on one machine: rehearsal, local grid, phantom."""

import stillroom.common  # noqa: F401  # before any import of Flower: see there
