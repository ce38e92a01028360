"""Loaded by every Python process of a consortium that a bench or a chaos run starts.

It is on PYTHONPATH there, and does nothing unless STILLROOM_HOOKS names a file of hooks
(see ``hooks``): no production code knows of it, and every process keeps its own command line.
"""

import os

if "STILLROOM_HOOKS" in os.environ:
    import hooks

    hooks.install(os.environ["STILLROOM_HOOKS"])
