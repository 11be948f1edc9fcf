import os

from versions import interpreter_fails

here = os.environ.get("TRITON_INTERPRET") == "1" and interpreter_fails() is None
collect_ignore_glob = [] if here else ["test_*.py"]
