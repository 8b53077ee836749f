"""Sound saved as `<id>.wav`, `.flac` or `.ogg`, read as a filter bank."""

from pathlib import Path

from torch import Tensor

from dataset import modalities
from utils.command import count
from utils.errors import check_at_least


class Modality(modalities.Modality):
    """Reads a sound file of any rate as (1, T, F) float32, T = `--audio_frames` of 10 ms each, F =
    `--mel_bins`: mono, Kaldi filter bank, cut or zero-padded, as CREMA-D's preparation does.
    """

    suffixes = (".wav", ".flac", ".ogg")

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add(
            "--audio_frames", type=count, default=1024, metavar="T", help="filter bank of T x 10 ms"
        )
        add("--mel_bins", type=count, default=128, metavar="F", help="filter bank of F mel bands")

    def __init__(self, folder: Path, train: bool, audio_frames=1024, mel_bins=128):
        super().__init__(folder, train)
        check_at_least(1, audio_frames=audio_frames, mel_bins=mel_bins)
        self.shape = (1, audio_frames, mel_bins)
        self.packed_as = f"filter bank {audio_frames} x {mel_bins}"

    def pack(self, sample_id: str) -> Tensor:
        """(1, T, F) float32."""
        from dataset.media import audio  # only here: it needs torchaudio and librosa

        waveform, sample_rate_hz = audio.read_waveform(self.path(sample_id))
        _, frames, mel_bins = self.shape
        return audio.filter_bank(waveform, sample_rate_hz, mel_bins, frames)[None]
