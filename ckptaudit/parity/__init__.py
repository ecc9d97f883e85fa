"""Whether a file is exactly what other files make of it: a conversion, a merge of an adapter, a merge of models."""
