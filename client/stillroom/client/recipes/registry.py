"""Every recipe by name: those that come with stillroom, and those that a package adds.

Each does what the declaration of the same name in ``common.recipes`` says.
"""

from importlib.metadata import entry_points

from stillroom.client.recipes.adapt import Adapt
from stillroom.client.recipes.bags import BagsOfTiles
from stillroom.client.recipes.cohort import inventory
from stillroom.client.recipes.context import Recipe, RecipeContext, RoundResult
from stillroom.client.recipes.distil import Distil
from stillroom.client.recipes.evaluation import evaluate
from stillroom.client.recipes.localise import Localise
from stillroom.client.recipes.pretrain_context import PretrainContext
from stillroom.client.recipes.pretrain_diffusion import PretrainDiffusion
from stillroom.client.recipes.pseudolabel import PseudoLabel
from stillroom.client.recipes.teach import Teach

GROUP = "stillroom.site_recipes"

RECIPES: dict[str, Recipe] = {
    "teach": Teach(),
    "localise": Localise(),
    "pseudolabel": PseudoLabel(),
    "distil": Distil(),
    "pretrain_context": PretrainContext(),
    "bags": BagsOfTiles(),
    "pretrain_diffusion": PretrainDiffusion(),
    "adapt": Adapt(),
}
# What is added here was installed by this site; a server can name it, and never bring it.
RECIPES |= {one.name: one.load() for one in entry_points(group=GROUP) if one.name not in RECIPES}

__all__ = ["RECIPES", "Recipe", "RecipeContext", "RoundResult", "evaluate", "inventory"]
