"""The generators: vLLM engines in Ray actors."""
