"""AMT: a pool of adapters, each tuned on few-shot episodes against one adversary."""
