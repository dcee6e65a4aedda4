"""Numbers as other libraries have them: all that Python's own `numbers` asks of them, and nothing more."""
import numbers


class Whole:
    """An integer of another library, as numpy's are."""

    def __init__(self, value):
        self.value = value

    def __int__(self):
        return self.value


class Real:
    """A real number of another library that is no integer, as numpy's float32."""

    def __init__(self, value):
        self.value = value

    def __float__(self):
        return self.value


numbers.Integral.register(Whole)
numbers.Real.register(Real)
