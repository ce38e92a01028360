"""Plain Flower: its own FedAvg over the bench's tensors, and a client that adds the bench's noise."""

import json
import os
import time
from pathlib import Path

import noise
import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

server, client = ServerApp(), ClientApp()


def record(weights: dict[str, NDArray[np.float32]]) -> ArrayRecord:
    """Weights as Flower carries them."""
    return ArrayRecord({name: Array(value) for name, value in weights.items()})


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Some rounds of FedAvg; the time at the end of each goes into a file."""
    settings = context.run_config
    shapes = json.loads(Path(str(settings["shapes"])).read_text("utf-8"))
    sites = int(settings["sites"])

    def note(number: int, _arrays: ArrayRecord) -> None:
        with Path(str(settings["times"])).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"round": number, "t": time.time()}) + "\n")

    strategy = FedAvg(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=sites,
        min_available_nodes=sites,
    )
    # FedAvg.start scores the initial model first: the time of round 0 is the start of round 1.
    strategy.start(
        grid,
        record(noise.initial(shapes)),
        num_rounds=int(settings["rounds"]),
        evaluate_fn=note,
    )


@client.train()
def train(message: Message, context: Context) -> Message:
    """The weights that came plus noise."""
    arrays = message.content["arrays"]
    weights = {name: array.numpy() for name, array in arrays.items()}
    number = int(message.content["config"]["server-round"])
    changed = noise.trained(weights, os.environ["BENCH_SITE"], "student", number)
    content = {"arrays": record(changed), "metrics": MetricRecord({"num-examples": 2})}
    return Message(RecordDict(content), reply_to=message)
