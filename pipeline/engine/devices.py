"""Choice of the torch device, and the check that it still works."""


def pick_device(wanted: str) -> str:
    """Resolve `auto` to the first GPU, or to the CPU without one; other names are returned unchanged."""
    if wanted != "auto":
        return wanted
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def is_broken(device: str) -> bool:
    """Whether a GPU no longer works in this process. Some CUDA errors persist until the process ends."""
    if not device.startswith("cuda"):
        return False
    import torch

    try:
        torch.ones(1, device=device).sum().item()
    except torch.OutOfMemoryError:
        return False
    except RuntimeError:
        return True
    return False
