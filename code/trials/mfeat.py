"""UCI Multiple Features, six views of a digit. A tenth of the training split is trained on, another
one for every seed, since with more samples one joint loss left nothing to be told apart; the other
nine tenths choose the rates."""

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
    flags="--val_fraction 0.9 --schedule cosine --epochs 60 --batch_size 20 --no-tensorboard",
    validation="",  # the same in both stages
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
