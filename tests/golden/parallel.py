"""Layers of several kinds side by side, after arXiv 2411.13676: their normalised outputs, put together."""
import copy
import importlib

from case import main, rows_times
from derivative import dot, sqrt, total
from record import common_parameters


def definition(config, name):
    return importlib.import_module(config[name].get("kind", name))


def parameters(config, D):
    shapes = {} if config["combine"] == "concat" else {"output.weight": (D, D)}
    for name in config["members"]:
        its = common_parameters(config[name], D)
        if hasattr(definition(config, name), "parameters"):
            its |= definition(config, name).parameters(config[name], D)
        shapes |= {f"members.{name}.{path}": shape for path, shape in its.items()}
        shapes[f"norms.{name}.weight"] = (D,)
        if config["combine"] == "concat":
            shapes[f"output.{name}.weight"] = (D, D)
    return shapes


def member(case, name):
    """The case of a member alone: its keys and its parameters."""
    alone, prefix = copy.copy(case), f"param/members.{name}."
    alone.config = case.config[name]
    alone.tensors = {"input/x": case.input("x")} | {
        "param/" + path.removeprefix(prefix): values for path, values in case.tensors.items()
        if path.startswith(prefix)}
    return alone


def layer(case, b):
    c = case.config
    outputs = []
    for name in c["members"]:
        rows, weight = definition(c, name).layer(member(case, name), b)["y"], case.param(f"norms.{name}.weight")
        outputs.append([[z / sqrt(dot(row, row) / len(row) + c["norm_eps"]) * w for z, w in zip(row, weight)]
                        for row in rows])
    if c["combine"] == "concat":
        outputs = [rows_times(rows, case.param(f"output.{name}.weight")) for name, rows in zip(c["members"], outputs)]
    sums = [[total(column) for column in zip(*rows)] for rows in zip(*outputs)]
    if c["combine"] == "concat":
        return {"y": sums}
    return {"y": rows_times([[z / len(outputs) for z in row] for row in sums], case.param("output.weight"))}


if __name__ == "__main__":
    main(layer)
