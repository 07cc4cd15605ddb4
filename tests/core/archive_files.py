"""What h5py sees of our files, and files made by others that the reader must refuse.

read FILE          checks the values that tests/core/archive_h5py_test.cpp wrote
spoil FILE KIND    changes a valid file of ours in one forbidden way
"""

import sys

import h5py
import numpy as np


def read(name):
    with h5py.File(name, "r") as file:
        assert file.attrs["format"] == b"headway-checkpoint", file.attrs["format"]
        assert file.attrs["format_version"] == 2 and file.attrs["complete"] == 1
        expected = (np.arange(3 * 5, dtype=np.float32).reshape(3, 5) - 7) / 4  # exact in bf16
        for dtype, bits in (("f32", 4), ("bf16", 2)):
            dataset = file["model/" + dtype]
            assert dataset.dtype == np.float32, dataset.dtype
            assert dataset.id.get_type().get_size() == bits
            assert dataset.shape == (3, 5)
            assert np.array_equal(dataset[()], expected), dataset[()]
        assert file["model/bf16"].attrs["dtype"] == b"bfloat16"
        special = file["model/special"][()]
        assert np.isinf(special[0]) and special[0] < 0 and np.isnan(special[1]) and special[2] == 0
        assert file["recipe"][()].decode() == "[model]\n"
        assert file["state"].attrs["step"] == 120


def spoil(name, kind):
    if kind == "foreign":
        with h5py.File(name, "w", libver="v110") as file:
            file["model/weight"] = np.zeros(3, np.float32)
        return
    if kind == "old_foreign":
        with h5py.File(name, "w") as file:
            file["model/weight"] = np.zeros(3, np.float32)
        return
    with h5py.File(name, "r+", libver="v110") as file:
        model = file["model"]
        zeros = np.zeros((4, 4), np.float32)
        if kind == "soft_link":
            model["evil"] = h5py.SoftLink("/model/f32")
        elif kind == "external_link":
            model["evil"] = h5py.ExternalLink("/etc/passwd", "/x")
        elif kind == "second_hard_link":
            model["evil"] = model["f32"]
        elif kind == "cycle":
            model["evil"] = file["/"]
        elif kind == "external_storage":
            model.create_dataset("evil", (16,), np.uint8, external=[("/etc/passwd", 0, 16)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4, 4), np.float32)
            layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4, 4))
            model.create_virtual_dataset("evil", layout)
        elif kind == "shape_bomb":
            model.create_dataset("evil", (1 << 40,), np.float32, chunks=(1 << 20,))
        elif kind == "overflow":
            model.create_dataset("evil", (1 << 31, 1 << 31, 4), np.float32, chunks=(1, 1, 1))
        elif kind == "unwritten":
            model.create_dataset("evil", (1 << 20,), np.float32)
        elif kind == "gzip":
            model.create_dataset("evil", data=zeros, compression="gzip")
        elif kind == "shuffle":
            model.create_dataset("evil", data=zeros, chunks=(4, 4), shuffle=True)
        elif kind == "compact":
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_layout(h5py.h5d.COMPACT)
            space = h5py.h5s.create_simple((4,))
            h5py.h5d.create(model.id, b"evil", h5py.h5t.IEEE_F32LE, space, properties)
        elif kind == "compound":
            model["evil"] = np.zeros(3, np.dtype([("a", "f4"), ("b", "i8")]))
        elif kind == "variable_string":
            model["evil"] = "text"
        elif kind == "big_endian":
            model["evil"] = np.zeros(3, ">f4")
        elif kind == "half":
            model["evil"] = np.zeros(3, np.float16)
        elif kind == "null_space":
            model["evil"] = h5py.Empty("f4")
        elif kind == "named_type":
            model["evil"] = np.dtype("f4")
        elif kind == "too_many_dimensions":
            model["evil"] = np.zeros((1,) * 7, np.float32)
        elif kind == "deep":
            group = model
            for _ in range(100):
                group = group.create_group("g")
        elif kind == "many_attributes":
            for i in range(1001):
                model.attrs["evil_%d" % i] = i
        elif kind == "array_attribute":
            model.attrs["evil"] = np.zeros(4)
        elif kind == "no_digest":
            model["evil"] = zeros
            model["evil"].attrs["dtype"] = np.bytes_("float32")
        elif kind == "renamed":
            model.move("f32", "evil")
        elif kind == "dropped":
            del model["f32"]
        elif kind == "added":
            model["evil"] = zeros
            model["evil"].attrs["dtype"] = np.bytes_("float32")
            model["evil"].attrs["xxh3"] = np.bytes_("0123456789abcdef")
        elif kind == "changed_value":
            model["f32"][1, 1] = 77
        elif kind == "wrong_dtype_attribute":
            model["f32"].attrs["dtype"] = np.bytes_("float64")
        elif kind == "incomplete":
            file.attrs["complete"] = 0
        elif kind == "changed_attribute":
            file.attrs["step"] = 78
        elif kind == "older_format":
            file.attrs["format_version"] = 1
        elif kind == "newer_format":
            file.attrs["format_version"] = 3
        else:
            raise ValueError(kind)


if __name__ == "__main__":
    {"read": read, "spoil": spoil}[sys.argv[1]](*sys.argv[2:])
