"""llmlite: a synchronous client for large language models, on requests and urllib3.  See `llmlite.client`."""
from .cache import Cache as Cache
from .client import *
from .client import __version__ as __version__
from .notebook import load_ipython_extension as load_ipython_extension
from .notebook import unload_ipython_extension as unload_ipython_extension
