"""Fill a folder of texts by a pool of Ray's actors, each with a model of its own."""

import json
import tempfile
from pathlib import Path

import ray

from openglm.integrations.columns import FillColumns

with tempfile.TemporaryDirectory() as folder:
    source, target = Path(folder, "texts"), Path(folder, "filled")
    source.mkdir()
    for number in range(2):
        lines = [json.dumps({"id": 10 * number + i, "text": f"There were {i} [MASK] in the garden."}) for i in range(5)]
        Path(source, f"{number}.jsonl").write_text("\n".join(lines) + "\n")

    ray.init(include_dashboard=False, num_cpus=2, logging_level="error")
    ray.data.read_json(str(source)).map_batches(
        FillColumns, fn_constructor_kwargs={"max_new_tokens": 4}, concurrency=1, batch_size=5
    ).write_json(str(target))
    ray.shutdown()

    rows = [json.loads(line) for path in target.iterdir() for line in path.read_text().splitlines()]
    for row in sorted(rows, key=lambda row: row["id"]):
        print(f"{row['id']:3}  {row['logprob']:6.2f}  {row['filled']}")
