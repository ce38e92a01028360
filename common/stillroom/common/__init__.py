"""What both sides signed up to.

Importing anything of stillroom switches off what Flower would otherwise send home: it reads these
variables when it is first imported, so they are set here, before any of our modules can import it.
They are also inherited by the processes Flower starts. tests/federation holds this.
"""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
