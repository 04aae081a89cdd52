"""Makes a process one of another version, as TEST_VERSIONS says: OLDEST-NEWEST/PACKAGE.

Put on PYTHONPATH by tests of version skew; nothing in the product is switched for it.
"""

import os
import runpy

import palace
from palace.protocol import wire

runpy.run_path(f"{os.path.dirname(os.path.abspath(__file__))}/../prepared.py")

protocols, _, package = os.environ.get("TEST_VERSIONS", "").partition("/")
if protocols:
    oldest, _, newest = protocols.partition("-")
    wire.OLDEST, wire.VERSION = int(oldest), int(newest)
    palace.__version__ = package
