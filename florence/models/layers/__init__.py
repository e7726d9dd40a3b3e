"""Layers the encoders are made of.

Norms are plain `nn.LayerNorm`: given bf16 its kernels compute in fp32 and round once, which is the
paper's "LayerNorm in fp32" (section 2.7) without an fp32 copy of the activations.
"""
