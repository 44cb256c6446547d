"""What every Mica process needs: Kubernetes client, reflector, settings, logging, admin server and signals.

One implementation of each, so that four components do not differ in their bugs. Not a place for decisions: nothing here
knows what a slice is.
"""

from typing import Final

__version__: Final = "0.1.0"
"""That of the distribution, for images, which hold the code and no distribution. A test compares the two."""
