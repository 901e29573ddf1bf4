"""Side methods, written against the contract of plug-ins; the registry reads this list."""

ADAPTERS = {
    "corda": "bayeslora.contrib.corda:CorDA",
    "s2ft": "bayeslora.contrib.s2ft:S2FT",
    "lisa": "bayeslora.contrib.lisa:LISA",
    "emtal": "bayeslora.contrib.emtal:EMTAL",
    "ilora": "bayeslora.contrib.ilora:ILoRA",
    "amt": "bayeslora.contrib.amt:AMT",
}
"""Adapters as `module:Class` by name; a method is one line here and its file."""
