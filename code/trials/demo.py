"""The generated demo set: to see a trial run. Its numbers say nothing."""

from trials import CORE, Trial

TRIAL = Trial(
    flags="--epochs 2 --encoder cnn --image_size 32 --schedule cosine --no-tensorboard",
    validation="--val_fraction 0.2",
    rates=(0.003, 0.006, 0.012),
    arms=CORE,
    tuning_seeds=(100, 101),
    seeds=(0, 1, 2),
)
