"""UCI Multiple Features, six views of a digit. 100 samples for training, --train_size 100 of its
preparation: with more of them joint alone left nothing to be told apart."""

from trials import (
    CONTROLS,
    CORE,
    FINE_TUNED,
    OF_GRADIENTS,
    OF_MODALITIES,
    SUMS,
    TAUGHT,
    Trial,
    with_adamw,
)

TRIAL = Trial(
    flags="--schedule cosine --epochs 60 --batch_size 20 --no-tensorboard",
    validation="--val_fraction 0.2",
    rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
    arms=(
        *(f"joint --modalities {view}" for view in ("fac", "fou", "kar", "mor", "pix", "zer")),
        *CORE,
        FINE_TUNED,
        *SUMS,
        *CONTROLS,
        *OF_GRADIENTS,
        *OF_MODALITIES,
        *TAUGHT,
        *with_adamw(CORE),
    ),
)
