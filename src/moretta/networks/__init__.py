"""Networks as torch modules: tensors in, tensors out. No files, no paths, no names of weights."""
