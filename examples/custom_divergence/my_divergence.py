"""A divergence of one's own. `align` reads this file as it is: nothing is imported, derived from or registered."""


class MyDivergence:
    """Squared Hellinger distance: f(u) = (sqrt(u) - 1)^2 at u = pi/ref, so D = sum over tokens of (sqrt(pi) - sqrt(ref))^2."""

    def f(self, log_u):
        """f at u = exp(log_u), elementwise on a tensor of any shape; convex in u, and 0 at u = 1. In nats, log_u = log pi - log ref."""
        return (log_u / 2).expm1() ** 2
