"""How many explicit serving configurations one call prices per second on one core, and how long a single one takes."""

from __future__ import annotations

import time

import numpy as np

from planner import (
    LoadPattern,
    ServingEstimator,
    estimate,
    load_cluster,
    load_device,
    load_engine,
    load_model,
    load_trace,
)

CONFIGURATIONS = 200_000


def main() -> None:
    random = np.random.default_rng(0)
    print("explicit serving configurations in one call: TP 1 to 8, PP 1 to 4, any ISL, OSL and concurrency")
    for model, gpu, engine in (
        ("llama-3.1-70b-fp8", "h100_sxm", "vllm"),
        ("gpt-oss-120b", "h200", "sglang"),
        ("deepseek-r1", "h200", "trtllm"),
    ):
        price = ServingEstimator(load_model(model), load_device(gpu), load_engine(engine))
        tp, pp = np.array([(tp, pp) for tp in (1, 2, 4, 8) for pp in (1, 2, 4) if tp * pp <= 8]).T
        which = random.integers(0, len(tp), CONFIGURATIONS)
        asked = {
            "tp": tp[which],
            "pp": pp[which],
            "isl": random.uniform(64, 16_000, CONFIGURATIONS),
            "osl": random.uniform(16, 4_000, CONFIGURATIONS),
            "concurrency": random.uniform(1, 512, CONFIGURATIONS),
        }
        start = time.perf_counter()
        price(**{name: values[:100] for name, values in asked.items()})
        first = time.perf_counter() - start
        start = time.thread_time()
        found = price(**asked, load=LoadPattern(synchrony=0.1))
        took = time.thread_time() - start
        print(
            f"  {model:18} {gpu:9} {engine:7} {CONFIGURATIONS / took:9,.0f} a second"
            f"   ({found.feasible_B.mean():4.0%} can run; tables {1e3 * first:.0f} ms, once)"
        )
        single = []
        for b in range(50):
            start = time.perf_counter()
            price(**{name: values[b] for name, values in asked.items()})
            single.append(time.perf_counter() - start)
        print(f"  {'':36} one at a time {1e3 * float(np.median(single)):.2f} ms")
    cluster, model, trace, engine = (
        load_cluster("1xh100"),
        load_model("llama-3.1-8b"),
        load_trace("azure-conv-2023"),
        load_engine("vllm"),
    )
    single = []
    for _ in range(20):
        start = time.perf_counter()
        estimate(model, cluster, trace, [[(["node-0/0"], 32)]], engine=engine, ttft=2.0, tpot=0.1)
        single.append(time.perf_counter() - start)
    print(f"planner.estimate, a whole plan for a trace: {1e3 * float(np.median(single)):.1f} ms warm")


if __name__ == "__main__":
    main()
