"""What collecting the tests has imported stays for good: the garbage collector does not walk it again and again.

Of 20 seconds that collecting them took, it had 6, and later a seventh of the time.
"""

import gc

gc.disable()


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.enable()
