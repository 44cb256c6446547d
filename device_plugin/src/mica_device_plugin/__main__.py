"""Entry point: ``python -m mica_device_plugin``."""

from mica_device_plugin.agent import COMPONENT, start
from mica_device_plugin.settings import AgentSettings
from mica_runtime import service


def main() -> None:
    service.main(COMPONENT, start, settings=AgentSettings)


if __name__ == "__main__":
    main()
