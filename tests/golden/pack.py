"""Pack a folder of loose golden files into tests/golden/data:  python tests/golden/pack.py FOLDER"""

import json
import sys
from pathlib import Path

import numpy as np


def main(folder: str) -> None:
    source, target = Path(folder), Path(__file__).parent / "data"
    target.mkdir(exist_ok=True)
    for description in sorted(source.glob("*.json")):
        family = description.stem
        packed = {}
        for path in sorted(source.glob(f"{family}__*.npz")):
            with np.load(path, allow_pickle=False) as file:
                packed.update({f"{path.stem.split('__', 1)[1]}|{key}": file[key] for key in file.files})
        if packed:
            np.savez_compressed(target / f"{family}.npz", **packed)
        (target / f"{family}.json").write_text(json.dumps(json.loads(description.read_text()), indent=0))


if __name__ == "__main__":
    main(sys.argv[1])
