"""UCI Multiple Features, six views of a digit. A tenth of the training split is trained on, another
one for every seed, since with more samples one joint loss left nothing to be told apart; the other
nine tenths choose the rates."""

from trials import OF_ALL, Trial

TRIAL = Trial(
    flags="--val_fraction 0.9 --schedule cosine --epochs 60 --batch_size 20 --no-tensorboard",
    validation="",  # the same in both stages
    arms=(
        *(f"joint --modalities {view}" for view in ("fac", "fou", "kar", "mor", "pix", "zer")),
        *OF_ALL,
    ),
)
