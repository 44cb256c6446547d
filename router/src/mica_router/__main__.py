"""`python -m mica_router`."""

from mica_router.app import start
from mica_runtime import service


def main() -> None:
    """Run until SIGTERM."""
    service.main("router", start)


if __name__ == "__main__":
    main()
