"""Every recipe by name: those that come with stillroom, and those that a package adds.

A package adds one by an entry point of the group ``stillroom.recipes`` that names its
``Declaration``, and one of the group ``stillroom.site_recipes`` that names the recipe; see
docs/developers/write-a-recipe.md. Nothing is ever loaded because a server asked for it: what is
installed is decided by whoever installs.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

from stillroom.common.recipes.adapt import ADAPT
from stillroom.common.recipes.bags import BAGS
from stillroom.common.recipes.context import PRETRAIN_CONTEXT
from stillroom.common.recipes.declaration import Declaration
from stillroom.common.recipes.diffusion import PRETRAIN_DIFFUSION
from stillroom.common.recipes.spine import DISTIL, LOCALISE, PSEUDOLABEL, TEACH

GROUP = "stillroom.recipes"
BUILT_IN = (TEACH, LOCALISE, PSEUDOLABEL, DISTIL, PRETRAIN_DIFFUSION, ADAPT, PRETRAIN_CONTEXT, BAGS)


@cache
def declarations() -> Mapping[str, Declaration]:
    """Recipe name -> declaration, in the order of a study's usual stages; added ones come last.

    Raises:
        ValueError: A package adds a recipe under a name that is taken, or something else than a
            ``Declaration``: a mistake of its author.
    """
    known = {one.name: one for one in BUILT_IN}
    for entry in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        added = entry.load()
        if not isinstance(added, Declaration) or added.name != entry.name or added.name in known:
            raise ValueError(f"entry point {entry.name} of {GROUP} is no new recipe")
        known[added.name] = added
    return known


def declaration(name: str) -> Declaration:
    """The recipe called ``name``; KeyError when none is installed."""
    return declarations()[name]
