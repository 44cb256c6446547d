"""``python -m mica_operator``."""

from mica_operator.app import start
from mica_operator.settings import OperatorSettings
from mica_runtime import service


def main() -> None:
    """Run until SIGTERM."""
    service.main("operator", start, settings=OperatorSettings)


if __name__ == "__main__":
    main()
