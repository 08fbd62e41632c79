"""Repack the wheel of bitsandbytes with the libraries of one CUDA version and of the CPU only.

43 MB become one or two.

    python strip_wheel.py bitsandbytes-X-….whl FOLDER [--cuda 130]

The file keeps its name, RECORD is written anew, and every member that stays is unchanged.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import zipfile
from pathlib import Path


def keeps(name: str, cuda: str) -> bool:
    """Whether the member stays: all but the native libraries of other CUDA versions, ROCm, XPU."""
    library = re.search(r"libbitsandbytes_(\w+)\.(so|dylib|dll)$", name)
    return library is None or library[1] in ("cpu", f"cuda{cuda}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cuda", default="130")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    target = options.folder / options.wheel.name
    assert target.resolve() != options.wheel.resolve(), "give another folder"
    rows: list[str] = []
    with (
        zipfile.ZipFile(options.wheel) as whole,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made,
    ):
        names = [info.filename for info in whole.infolist()]
        record = next(name for name in names if name.endswith(".dist-info/RECORD"))
        assert f"bitsandbytes/libbitsandbytes_cuda{options.cuda}.so" in names, (
            "that CUDA version is not in the wheel"
        )
        for info in whole.infolist():
            if info.filename == record or not keeps(info.filename, options.cuda):
                continue
            data = whole.read(info)
            made.writestr(info, data, zipfile.ZIP_DEFLATED, 9)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{info.filename},sha256={digest},{len(data)}")
        made.writestr(record, "\n".join([*rows, f"{record},,"]) + "\n")
    with zipfile.ZipFile(target) as made:
        assert made.testzip() is None
        left = [name for name in made.namelist() if name.endswith(".so")]
    before, after = options.wheel.stat().st_size, target.stat().st_size
    print(f"{target}: {after:,} bytes (was {before:,}), libraries {', '.join(left)}")


if __name__ == "__main__":
    main()
