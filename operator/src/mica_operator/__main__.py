"""``python -m mica_operator``."""

from mica_operator.app import start
from mica_runtime import service


def main() -> None:
    """Run until SIGTERM."""
    service.main("operator", start)


if __name__ == "__main__":
    main()
