"""A whole consortium on one machine: rehearsal, local grid, phantom."""
