"""DGL: the multimodal loss trains the fusion alone, the unimodal losses the encoders and heads.

    .grad of the fusion = gradient of L_m
    .grad of encoders and heads = gradient of alpha sum_u L_u

With alpha = 1 this is the uniform baseline without the multimodal loss's gradient in the encoders:
no encoder's step depends on another modality.

Source: Wei et al. 2025 (ICCV), "Boosting Multimodal Learning via Disentangled Gradient Learning";
alpha = 4 as in their published code (main_dgl.py). Departs: unimodal logits are those of the heads;
there they are the fusion's own, the other modality's feature set to zero, and their gradient in the
fusion is thrown away. Nor are gradients clipped, there to length 40 (`--clip_grad 40`). With one
modality alone this is --method joint. Cost: 3 F per step.
"""

import methods
from utils.errors import check_positive


class Method(methods.Method):
    needs = {"late_fusion"}

    def __init__(self, dgl_alpha=4.0):
        check_positive(dgl_alpha=dgl_alpha)
        self.alpha = dgl_alpha

    @staticmethod
    def add_options(parser):
        about = "factor on the unimodal losses, > 0"
        parser.add_argument("--dgl_alpha", type=float, default=4.0, help=about)

    def backward(self, forward, model):
        multimodal, *unimodal = forward.losses.values()
        if not unimodal:
            multimodal.backward()
            return
        fusion = [p for p in model.fusion.parameters() if p.requires_grad]
        if fusion:
            multimodal.backward(inputs=fusion, retain_graph=True)
        if trained := [loss for loss in unimodal if loss.requires_grad]:
            (self.alpha * sum(trained)).backward()
