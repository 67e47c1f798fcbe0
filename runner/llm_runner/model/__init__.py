"""The base model and what is added to it: loading, quantizing, adapters, saving, and how much memory that needs.

Knows local folders only. Fetching and publishing them is ``llm_runner.store``'s.
"""

import logging

# It tells of every cast in 8-bit layers, once a call, and of kernels that it would like to download.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
