"""Inputs and outputs in S3: a run that is killed resumes, and the objects are the files of a run on a disk."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from command_line import vocabkit_here
from programs import in_ecosystem

ROOT = Path(__file__).parents[2]
CODE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
os.environ |= {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_DEFAULT_REGION": "us-east-1",
}
import s3fs
store = s3fs.S3FileSystem(use_listings_cache=False)
store.mkdir("bucket")
for file in Path(".").glob("shard-*.tar"):
    store.put_file(str(file), f"bucket/in/{file.name}")

START = (
    "from vocabkit.infer import result_files; result_files.SHARD_PICTURES = 2;"
    "from vocabkit_cli.__main__ import run; raise SystemExit(run())"
)
words = ["infer", sys.argv[1], "s3://bucket/in/shard-{0..1}.tar", "--words", "--device", "cpu", "--batch", "2", "--out"]

def infer(out, *options):
    return subprocess.Popen([sys.executable, "-c", START, *words, out, *options], stderr=subprocess.PIPE, text=True)

def objects(folder):
    return {Path(name).name: store.cat_file(name).hex() for name in store.glob(f"bucket/{folder}/*.*")}

first = infer("s3://bucket/out")
while len(objects("out")) < 2 and first.poll() is None:
    time.sleep(0.01)
first.send_signal(signal.SIGKILL)
first.wait()
left = objects("out")
again = infer("s3://bucket/out")
assert again.wait() == 0, again.stderr.read()
for part in ("2/2", "1/2"):
    process = infer("s3://bucket/parts", "--partition", part)
    assert process.wait() == 0, process.stderr.read()
missing = infer("s3://nobucket/out")
said = missing.communicate()[1]
Path("found.json").write_text(json.dumps({
    "left": left, "out": objects("out"), "parts": objects("parts"), "missing": [missing.returncode, said],
}))
server.stop()
"""


def test_killed_run_and_parts_make_the_objects_of_a_single_run(tmp_path: Path) -> None:
    drawn = vocabkit_here(tmp_path, "scenes", "scenes", "--train", "24", "--held-out", "1", "--only", "train")
    assert drawn.returncode == 0, drawn.stderr
    pictures, adapter = sorted((tmp_path / "scenes/images").iterdir()), ROOT / "data" / "scenes-words.pt"
    for shard in range(2):
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as writer:
            for file in pictures[12 * shard : 12 * shard + 12]:
                writer.add(file, file.name)
    in_ecosystem(tmp_path, "-c", CODE, adapter)
    found = json.loads((tmp_path / "found.json").read_text())
    local = (
        "from vocabkit.infer import result_files; result_files.SHARD_PICTURES = 2;"
        "from vocabkit_cli.__main__ import run; raise SystemExit(run())"
    )
    words = ("infer", adapter, "shard-{0..1}.tar", "--words", "--device", "cpu", "--batch", "2", "--out", "out")
    in_ecosystem(tmp_path, "-c", local, *words)
    expected = {file.name: file.read_bytes().hex() for file in (tmp_path / "out").iterdir()}
    assert 2 <= len(found["left"]) < len(expected)
    assert found["left"].items() <= expected.items()
    assert found["out"] == expected
    assert found["parts"] == expected
    status, said = found["missing"]
    assert status == 2
    assert said.count("\n") == 1
    assert said.startswith("error: s3://nobucket/out: can't write here (")
