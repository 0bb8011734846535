"""What the tests run in processes of its own: extracts in small shards, and writes down which ones it made."""

import json
import os
import sys
import time
from pathlib import Path

from accelerate import PartialState
from launching import pretend_speeds
from tiny_extraction import IMAGE_SIZE, SHARD_ROWS, make_tiny_images

from dedn_hf.features import store_writer
from dedn_hf.features.extraction import extract_feature_maps

if __name__ == "__main__":
    output_dir, backbone, image_folder, ranks, options = sys.argv[1:]
    options = json.loads(options)
    if "speeds" in options:
        pretend_speeds(options.pop("speeds")[int(os.environ.get("RANK", "0"))])
    store_writer.SHARD_ROWS, store_writer.RECORD_BATCH_ROWS = SHARD_ROWS, 2
    hash_file, write_shard, written = store_writer.hash_file, store_writer.write_shard, []
    if options.pop("slow"):
        # There is a temporary file while it is hashed: the test has time to see it, and to kill this process.
        store_writer.hash_file = lambda path: (time.sleep(0.3), hash_file(path))[1]
    store_writer.write_shard = lambda *args: (write_shard(*args), written.append(args[1]))
    try:
        extract_feature_maps(
            make_tiny_images(Path(image_folder)),
            backbone,
            IMAGE_SIZE,
            output_dir,
            "birds",
            **{"batch_size": 2, "num_workers": 1, **options},
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    state = PartialState()
    (Path(ranks) / f"{state.process_index}.json").write_text(json.dumps(written))
    state.destroy_process_group()
