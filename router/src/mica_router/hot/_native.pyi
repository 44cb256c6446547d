from mica_router.hot.plain import Histogram as Histogram
from mica_router.hot.plain import Line as Line
from mica_router.hot.plain import Passing as Passing
from mica_router.hot.plain import Reel as Reel

DIGEST: str
