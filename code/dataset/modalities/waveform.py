"""Sound saved as `<id>.wav`, `.flac` or `.ogg`, read as a filter bank."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dataset import modalities
from utils.errors import BadInput


class Modality(modalities.Modality):
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

    def __init__(self, folder: Path, train: bool, audio_frames=1024, mel_bins=128):
        super().__init__(folder, train)
        for flag, value in (("audio_frames", audio_frames), ("mel_bins", mel_bins)):
            if value < 1:
                raise BadInput(f"--{flag} {value}: must be at least 1")
        self.frames, self.mel_bins = audio_frames, mel_bins
        self.shape = (1, audio_frames, mel_bins)
        self.packed_as = f"filter bank {self.frames} x {self.mel_bins}"

    def pack(self, sample_id: str) -> Tensor:
        """(1, T, F) float32."""
        from dataset.media.audio import (  # only here: torchaudio and librosa
            filter_bank,
            read_waveform,
        )

        waveform, sample_rate_hz = read_waveform(self.path(sample_id))
        return filter_bank(waveform, sample_rate_hz, self.mel_bins, self.frames)[None]
