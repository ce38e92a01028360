"""NVFlare's half of the bench that runs at its server: where the model comes from and goes to."""

import json
import time
from pathlib import Path

import noise
import numpy as np
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.app_event_type import AppEventType


class Shapes(ModelPersistor):
    """A model of the bench's shapes; saved as NVFlare's own NumPy persistor does, in one file.

    Args:
        shapes: JSON file, tensor name -> shape.
        times: File for the moments at which rounds begin and models are saved.
        into: File for the model.
    """

    def __init__(self, shapes: str, times: str, into: str) -> None:
        super().__init__()
        self.shapes, self.times, self.into = shapes, times, into

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        """The initial model."""
        shapes = json.loads(Path(self.shapes).read_text("utf-8"))
        return make_model_learnable(weights=noise.initial(shapes), meta_props={})

    def save_model(self, model_learnable: ModelLearnable, fl_ctx: FLContext) -> None:
        """The model after a round."""
        np.savez(self.into, **model_learnable["weights"])
        self._note("saved")

    def handle_event(self, event: str, fl_ctx: FLContext) -> None:
        """The beginning of a round."""
        super().handle_event(event, fl_ctx)
        if event == AppEventType.ROUND_STARTED:
            self._note("started")

    def _note(self, what: str) -> None:
        with Path(self.times).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"what": what, "t": time.time()}) + "\n")
