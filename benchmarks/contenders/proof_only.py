"""The weight proof of a merged model: prints its wall and its CPU seconds. Arguments: BASE ADAPTER MERGED."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ingraft.execute import default_workers
from ingraft.plan import plan_merge
from ingraft.verification.weights import verify_weights

base, adapter, merged = sys.argv[1:]
plan = plan_merge(adapter, base)
started, worked = time.perf_counter(), time.process_time()
checks = verify_weights(plan, Path(merged), workers=default_workers())
print(time.perf_counter() - started, time.process_time() - worked)
sys.exit(not all(check.passed for check in checks))
