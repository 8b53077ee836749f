"""One joint loss: the cross-entropy of the fused branch alone, plain backward.

Source: Wei & Hu 2024, Sec. 4.1, published `one_joint_loss.py`. One backward pass: 3 F per step.
"""

from torch.nn.utils import get_total_norm

from methods import reduced


class Method:
    trains_unimodal_heads = False

    def __init__(self, options):
        del options

    def backward(self, forward_pass, model):
        name, loss = next(iter(forward_pass.losses.items()))  # the multimodal loss comes first
        loss.backward()
        if not reduced(model, forward_pass):
            return {}
        return {
            f"norm/{modality}/{name}": get_total_norm(
                [p.grad for p in parameters if p.grad is not None]
            )
            for modality, parameters in model.encoder_parameters().items()
        }
