"""One joint loss: the cross-entropy of the fused branch alone, plain backward.

Source: Wei & Hu 2024, Sec. 4.1, published `one_joint_loss.py`. One backward pass: 3 F per step.
"""

import methods


class Method(methods.Method):
    trains_unimodal_heads = False

    def backward(self, forward, model):
        forward.joint_loss.backward()

    def integrate(self, model):
        return methods.norms_of_sum(model.encoder_parameters(), "multimodal")
