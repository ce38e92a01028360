"""Every recipe by name. A new one is one new file and one line here."""

from stillroom.client.recipes.cohort import inventory
from stillroom.client.recipes.context import Recipe, RecipeContext, RoundResult
from stillroom.client.recipes.distil import Distil
from stillroom.client.recipes.evaluation import evaluate
from stillroom.client.recipes.localise import Localise
from stillroom.client.recipes.pseudolabel import PseudoLabel
from stillroom.client.recipes.teach import Teach

RECIPES: dict[str, Recipe] = {
    "teach": Teach(),
    "localise": Localise(),
    "pseudolabel": PseudoLabel(),
    "distil": Distil(),
}

__all__ = ["RECIPES", "Recipe", "RecipeContext", "RoundResult", "evaluate", "inventory"]
