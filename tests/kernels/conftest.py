"""What Triton's interpreter runs is collected only in its own process (test_interpreter starts it): Triton reads TRITON_INTERPRET when a
kernel is decorated, and the variable changes what other libraries do."""

import os

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]
