"""`python -m mica_router`."""

from mica_router.app import start
from mica_router.settings import RouterSettings
from mica_runtime import service


def main() -> None:
    """Run until SIGTERM."""
    service.main("router", start, settings=RouterSettings)


if __name__ == "__main__":
    main()
