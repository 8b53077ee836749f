"""Sound saved as `<id>.wav`, `.flac` or `.ogg`, read as a filter bank."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dataset.modalities import spectrogram
from utils.errors import BadInput


class Modality(spectrogram.Modality):
    """Reads a sound file of any rate as (1, T, F) float32, T = `--audio_frames` of 10 ms each, F =
    `--mel_bins`: mono, Kaldi filter bank, cut or zero-padded, as CREMA-D's preparation does.
    """

    suffixes = (".wav", ".flac", ".ogg")

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--audio_frames",
            type=int,
            default=1024,
            metavar="T",
            help="length of the filter bank, 10 ms each",
        )
        parser.add_argument(
            "--mel_bins", type=int, default=128, metavar="F", help="width of the filter bank"
        )

    def __init__(self, folder: Path, train: bool, options):
        super().__init__(folder, train, options)
        self.frames, self.mel_bins = options.audio_frames, options.mel_bins
        for flag in ("audio_frames", "mel_bins"):
            if getattr(options, flag) < 1:
                raise BadInput(f"--{flag} {getattr(options, flag)}: must be at least 1")
        self.packed_as = f"filter bank {self.frames} x {self.mel_bins}"

    def pack(self, sample_id: str) -> Tensor:
        """(1, T, F) float32: what the cache holds."""
        from utils.audio import filter_bank, read_waveform  # only here: torchaudio and librosa

        waveform, sample_rate_hz = read_waveform(self.path(sample_id))
        return filter_bank(waveform, sample_rate_hz, self.mel_bins, self.frames)[None]
