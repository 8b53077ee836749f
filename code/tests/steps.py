"""One training step in small, for tests of every method: its flags, an epoch begun, a batch."""

import torch

from methods import ForwardPass
from models.fusion import InnerFusion
from models.metrics import branch_losses
from models.multimodal import MultimodalModel
from utils import registry


def load_method(name):
    return registry.load_class("methods", name, "--method")


def build_method(name, *argv):
    build = load_method(name)
    return build(**vars(registry.parser_of_flags(build).parse_args(list(argv))))


def fusion_for(name):
    """The fusion that a method needs."""
    return "mmtm" if "gates" in load_method(name).needs else "concat"


def encoder_for(fusion):
    """A small encoder that has what the fusion needs."""
    build = registry.load_class("models/fusion", fusion, "")
    needs_tokens = issubclass(build, InnerFusion) and build.needs_stages_of == "tokens"
    return "vit_tiny" if needs_tokens else "cnn"


def shapes_for(modalities, size=(1, 32, 32)):
    return dict.fromkeys(modalities, size)


def built_reader(kind, folder, train=False, **flags):
    """The reader of a kind of file, with those of `flags` that it declares."""
    build = registry.load_class("dataset/modalities", kind, "")
    return build(folder, train, **registry.settings(build, flags))


def build_model(name, modalities=("audio", "visual"), classes=3):
    """A model as small as the files allow, with the fusion that the method needs."""
    torch.manual_seed(0)
    fusion = fusion_for(name)
    return MultimodalModel(shapes_for(modalities), classes, encoder_for(fusion), fusion)


def random_inputs(model, batch, seed, pixels=32):
    generator = torch.Generator().manual_seed(seed)
    like, size = next(model.parameters()), (batch, 1, pixels, pixels)
    inputs = {m: torch.randn(size, generator=generator).to(like) for m in model.encoders}
    return inputs, torch.randint(3, (batch,), generator=generator).to(like.device)


def start(method, model):
    """Begins an epoch, as train.py does, on a batch that is every split."""
    batches = [random_inputs(model, 6, seed=9)]
    method.start_epoch(0, model, dict.fromkeys(("train", "train_plain", "val"), batches))
    model.train()


def forward(model, seed=0, autocast=None, pixels=32):
    inputs, target = random_inputs(model, 4, seed, pixels)
    with torch.autocast(target.device.type, autocast, enabled=autocast is not None):
        logits, features = model(inputs)
        losses = branch_losses(logits, target)
    return ForwardPass(losses, logits, features, target, inputs=inputs)


def take_step(method, model, given=None):
    """Fills `.grad` from one batch; the diagnostics."""
    method.backward(forward(model) if given is None else given, model)
    method.to_sum(model)
    return method.integrate(model)
