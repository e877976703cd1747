"""How long the command line takes as a whole process, beside importing torch alone.

python benchmarks/startup.py [--runs 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import openglm": ["-c", "import openglm"],
    "openglm --help": ["-m", "openglm", "--help"],
    "openglm fill (one sentence)": ["-m", "openglm", "fill", "北京故宫是中国[MASK]非物质文化遗产。"],
}


def main() -> None:
    """Measure and print medians; commands take turns, so that a slow spell hits all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(args.runs + 1):
        for name, arguments in COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if run:  # the first round only warms the disk cache
                times[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:30} {seconds:6.2f} s")
    more = medians["openglm fill (one sentence)"] - medians["import torch"]
    print(f"{'fill beyond import torch':30} {more:6.2f} s")


if __name__ == "__main__":
    main()
