"""Mixing: coefficients over V_shared times the embedding rows of V_shared.

Visual tokens are sums of an LLM's embedding rows (Eq. 4; Eq. 6 with the rows of another LLM), weighted by the
coefficients that an adapter's head gives each patch (Eq. 3). `mix` is the entry point, `choose` the only place that
decides how it is computed.

Sizes: N patches, T rows of V_shared, H hidden width, D width of the LLM.
"""
