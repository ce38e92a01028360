"""Writes NVFlare's job: ``python flare_job.py OUT SHAPES TIMES SITES ROUNDS``, in NVFlare's environment."""

import sys
from pathlib import Path

from flare_parts import Shapes
from nvflare.client.config import ExchangeFormat
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.recipe.fedavg import FedAvgRecipe


def main(out: str, shapes: str, times: str, sites: str, rounds: str) -> None:
    """FedAvg with every default, NumPy arrays, in-process clients."""
    recipe = FedAvgRecipe(
        name="bench",
        min_clients=int(sites),
        num_rounds=int(rounds),
        train_script=str(Path(__file__).with_name("flare_client.py")),
        framework=FrameworkType.NUMPY,
        server_expected_format=ExchangeFormat.NUMPY,
        model_persistor=Shapes(shapes, times, str(Path(times).with_name("model.npz"))),
    )
    recipe.export(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
