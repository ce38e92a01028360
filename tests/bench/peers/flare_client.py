"""NVFlare's client script: the weights that came plus noise. NVFlare runs it inside its job process."""

import noise
import nvflare.client as flare


def main() -> None:
    """Every round."""
    flare.init()
    site = flare.get_site_name()
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        changed = noise.trained(model.params, site, "student", model.current_round + 1)
        meta = {"NUM_STEPS_CURRENT_ROUND": 2}
        flare.send(flare.FLModel(params=changed, metrics={"loss": 0.5}, meta=meta))


if __name__ == "__main__":
    main()
