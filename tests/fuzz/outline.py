#!/usr/bin/python3
"""outline.py FILE.h5: an archive as the text of archive_from_text.h, a seed for the fuzz targets that read it."""
import sys

import h5py
import numpy as np

DTYPES = {"float64": "f64", "float32": "f32", "int64": "i64", "int32": "i32", "uint8": "u8"}


def print_attributes(path, item):
    for name, value in item.attrs.items():
        if isinstance(item, h5py.Dataset) or name in ("content_xxh128", "complete"):
            continue  # the writer's own
        if isinstance(value, (bytes, str, np.bytes_)):
            text = value.decode() if isinstance(value, bytes) else value
            print("s", path, name, text.rstrip("\0"))
        else:
            print("i" if isinstance(value, np.integer) else "d", path, name, value)


def print_item(path, item):
    print_attributes(path, item)
    if not isinstance(item, h5py.Dataset):
        return
    if item.dtype.name in DTYPES:
        print("t", path, DTYPES[item.dtype.name], "x".join(map(str, item.shape)) or "-", 0.1)
        return
    print("x", path)
    for line in item[()].decode().rstrip("\0").splitlines():
        print(f" {line}")


with h5py.File(sys.argv[1]) as file:
    print_attributes("/", file)
    file.visititems(print_item)
