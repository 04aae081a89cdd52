"""Makes a process one of another version, as TEST_VERSIONS says: OLDEST-NEWEST/PACKAGE.

Put on PYTHONPATH by tests of version skew; nothing in the product is switched for it.
"""

import os

import palace
from palace.protocol import wire

protocols, _, package = os.environ.get("TEST_VERSIONS", "").partition("/")
if protocols:
    oldest, _, newest = protocols.partition("-")
    wire.OLDEST, wire.VERSION = int(oldest), int(newest)
    palace.__version__ = package
