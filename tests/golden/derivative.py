"""Numbers that remember how they were computed, so that a definition in plain Python has exact derivatives.

Reverse-mode differentiation of scalars. The functions here take and give floats or Numbers, and an expression without a
Number is computed as in plain Python.
"""
import math


class Number:
    tape = []  # every Number, in the order of creation

    def __init__(self, value, parents=()):
        self.value, self.parents, self.gradient = value, parents, 0.0  # parents: (Number, derivative by it)
        Number.tape.append(self)

    def __add__(self, other):
        return Number(self.value + value(other), [(self, 1.0)] + of(other, 1.0))

    def __mul__(self, other):
        return Number(self.value * value(other), [(self, value(other))] + of(other, self.value))

    def __truediv__(self, other):
        y = value(other)
        return Number(self.value / y, [(self, 1 / y)] + of(other, -self.value / y**2))

    def __rtruediv__(self, other):
        return Number(other / self.value, [(self, -other / self.value**2)])

    def __pow__(self, power):
        """A constant power."""
        return Number(self.value**power, [(self, power * self.value**(power - 1))])

    def __neg__(self):
        return Number(-self.value, [(self, -1.0)])

    def __sub__(self, other):
        return self + -other

    def __rsub__(self, other):
        return -self + other

    def __lt__(self, other):
        return self.value < value(other)

    def __gt__(self, other):
        return self.value > value(other)

    __radd__, __rmul__ = __add__, __mul__


def value(x):
    return x.value if isinstance(x, Number) else x


def of(x, derivative):
    return [(x, derivative)] if isinstance(x, Number) else []


def function(of_value, derivative):
    """derivative(x, y) of y = of_value(x)."""
    def apply(x):
        y = of_value(value(x))
        return Number(y, [(x, derivative(x.value, y))]) if isinstance(x, Number) else y
    return apply


exp = function(math.exp, lambda x, y: y)
log = function(math.log, lambda x, y: 1 / x)
log1p = function(math.log1p, lambda x, y: 1 / (1 + x))
sqrt = function(math.sqrt, lambda x, y: 0.5 / y)
tanh = function(math.tanh, lambda x, y: 1 - y * y)


def total(values):
    """The sum, rounded once."""
    values = list(values)
    parents = [parent for x in values for parent in of(x, 1.0)]
    result = math.fsum(map(value, values))
    return Number(result, parents) if parents else result


def dot(a, b):
    """The sum of products, rounded once."""
    pairs = list(zip(a, b))
    parents = [parent for x, y in pairs for parent in of(x, value(y)) + of(y, value(x))]
    result = math.fsum(value(x) * value(y) for x, y in pairs)
    return Number(result, parents) if parents else result


def backward(result):
    """Puts the derivative of result by every Number into its gradient."""
    result.gradient = 1.0
    for number in reversed(Number.tape):
        for parent, derivative in number.parents:
            parent.gradient += number.gradient * derivative
