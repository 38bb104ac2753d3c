"""The arithmetic: free functions of tensors, their gradients, and products kept between passes.

It knows neither layers nor adapters nor configurations: what is computed for which gate, and when,
is said by `updates`, `gates` and the adapted layer.
"""
