"""Networks as torch modules: tensors in, tensors out. No files, no paths, no names of weights.

But for `neighbours`, which reads pools of synthetic faces as memory maps of files.
"""
