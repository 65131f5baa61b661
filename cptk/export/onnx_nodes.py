"""Nodes of an ONNX graph in forms that onnxruntime has, and computes and quantises well."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np


def erfc_as_erf(model: Any) -> None:
    """Replace, in place, each erfc(x), which ONNX does not have, by 1 - erf(x).

    TensorFlow computes the exact GELU by it, and tf2onnx hands it on as it is.
    """
    helper, numpy_helper = import_module("onnx.helper"), import_module("onnx.numpy_helper")
    graph, nodes, one = model.graph, [], "one"
    for node in graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        (given,), (output,) = node.input, node.output
        nodes.append(helper.make_node("Erf", [given], [f"{output}/erf"], name=f"{output}/erf"))
        nodes.append(helper.make_node("Sub", [one, f"{output}/erf"], [output], name=output))
    if len(nodes) > len(graph.node):
        graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), one))
    del graph.node[:]
    graph.node.extend(nodes)


def einsums_as_products(model: Any) -> None:
    """Replace, in place, each einsum of states with a constant kernel by reshape and product.

    Keras's attention layers multiply by einsum. onnxruntime runs such a node by general code, and
    its quantisation leaves it in float32.
    """
    helper, numpy_helper = import_module("onnx.helper"), import_module("onnx.numpy_helper")
    graph = model.graph
    constants = {each.name: each for each in graph.initializer}
    nodes, made = [], {}
    for node in graph.node:
        plan = _plan(node, constants)
        if plan is None:
            nodes.append(node)
            continue
        rank, summed, kept = plan
        states, kernel = node.input
        shape = tuple(constants[kernel].dims)
        rows, columns = math.prod(shape[:summed]), math.prod(shape[summed:])
        matrix, prefix = f"{kernel}/matrix", node.output[0]
        if matrix not in made:
            values = numpy_helper.to_array(constants[kernel]).reshape(rows, columns)
            made[matrix] = numpy_helper.from_array(np.ascontiguousarray(values), matrix)
        if summed > 1:  # (batch, length, heads, head) → (batch, length, heads · head)
            flat = f"{prefix}/flat"
            nodes.append(_reshape(helper, states, flat, [0] * (rank - summed) + [rows], made))
            states = flat
        product = f"{prefix}/product" if kept > 1 else prefix
        nodes.append(helper.make_node("MatMul", [states, matrix], [product], name=product))
        if kept > 1:
            sizes = [0] * (rank - summed) + list(shape[summed:])
            nodes.append(_reshape(helper, product, prefix, sizes, made))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    left = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*left, *made.values()])


def _plan(node: Any, constants: dict[str, Any]) -> tuple[int, int, int] | None:
    """The rank of the states, and the kernel's axes summed over and kept; None for other nodes."""
    if node.op_type != "Einsum" or len(node.input) != 2 or node.input[1] not in constants:
        return None
    (equation,) = [each.s.decode() for each in node.attribute if each.name == "equation"]
    inputs, _, output = equation.replace(" ", "").partition("->")
    states, _, kernel = inputs.partition(",")
    summed = next((n for n in (1, 2) if states[-n:] == kernel[:n]), None)
    # The longest overlap: "abcd,cde->abe" sums over two axes.
    summed = 2 if len(states) > 2 and states[-2:] == kernel[:2] else summed
    if summed is None or output != states[:-summed] + kernel[summed:]:
        return None
    if len(set(states) | set(kernel)) != len(states) + len(kernel) - summed:
        return None
    return len(states), summed, len(kernel) - summed


def _reshape(helper: Any, given: str, output: str, sizes: list[int], made: dict[str, Any]) -> Any:
    """A node that reshapes; a size of 0 keeps that axis."""
    numpy_helper = import_module("onnx.numpy_helper")
    name = f"shape/{'x'.join(map(str, sizes))}"
    made.setdefault(name, numpy_helper.from_array(np.array(sizes, np.int64), name))
    return helper.make_node("Reshape", [given, name], [output], name=output)
