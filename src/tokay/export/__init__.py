"""A model in other forms: ONNX in float32 and int8, a static table, and notes for GGUF; each held against the model."""
