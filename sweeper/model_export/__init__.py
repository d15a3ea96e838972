"""Weights of a finished run as a folder for others: safetensors alone, or a model of Hugging Face `transformers`."""
