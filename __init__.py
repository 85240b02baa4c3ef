"""ComfyUI entry of Side-Step.  Imports nothing until ComfyUI asks for the nodes, so that it costs no start-up time."""

WEB_DIRECTORY = "./web"


def _claim() -> None:
    from .first_copy import claim

    claim()


# Before ComfyUI knows of this copy's scripts: the page must not load them twice.
if __package__:  # pytest imports this file alone where the folder's name is none of a package, such as side-step
    _claim()


async def comfy_entrypoint():
    """The pack's extension, as ComfyUI's V3 node API wants it."""
    try:
        from .nodes import SideStepExtension
    except Exception:
        import logging

        # The host logs only the message of a failing entrypoint, which does not say where it failed.
        logging.getLogger(__name__).exception("Side-Step could not be loaded.")
        raise
    return SideStepExtension()
