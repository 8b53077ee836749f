"""Sound saved as `<id>.wav`, `.flac` or `.ogg`, read as a filter bank."""

from pathlib import Path

from torch import Tensor

from dataset import modalities
from dataset._limits import naming
from utils.command import count
from utils.errors import check_at_least


def add_bank_size(parser) -> None:
    """--audio_frames and --mel_bins, also of the preparations that write filter banks."""
    add = parser.add_argument
    add("--audio_frames", type=count, default=1024, metavar="T", help="filter bank of T x 10 ms")
    add("--mel_bins", type=count, default=128, metavar="F", help="filter bank of F mel bands")


class Modality(modalities.Modality):
    """Reads a sound file of any rate as (1, T, F) float32, T = `--audio_frames` of 10 ms each, F =
    `--mel_bins`: mono, Kaldi filter bank, cut or zero-padded, as CREMA-D's preparation does.

    The bank covers 0 to half the sample rate, so all files must have one, or get it by
    `--sample_rate`.
    """

    suffixes = (".wav", ".flac", ".ogg")

    @staticmethod
    def add_options(parser):
        add_bank_size(parser)
        parser.add_argument(
            "--sample_rate",
            type=count,
            metavar="HZ",
            help="resample sound to this; needed for files of several rates, default their own",
        )

    def __init__(
        self, folder: Path, train: bool, audio_frames=1024, mel_bins=128, sample_rate=None
    ):
        super().__init__(folder, train)
        check_at_least(1, audio_frames=audio_frames, mel_bins=mel_bins)
        self.shape = (1, audio_frames, mel_bins)
        if sample_rate is not None:
            check_at_least(1000, sample_rate=sample_rate)
        self.sample_rate_hz = sample_rate
        at_rate = f" at {sample_rate} Hz" if sample_rate else ""
        self.packed_as = f"filter bank {audio_frames} x {mel_bins}{at_rate}"

    def check_together(self, ids: list[str]) -> None:
        """Raises BadInput where they have several sample rates and none is asked for."""
        from dataset.media import audio

        if not self.sample_rate_hz:
            audio.check_one_rate([self.path(sample_id) for sample_id in ids])

    def pack(self, sample_id: str) -> Tensor:
        """(1, T, F) float32."""
        from dataset.media import audio  # only here: it needs torchaudio and librosa

        path, (_, frames, mel_bins) = self.path(sample_id), self.shape
        with naming(path):
            sound = audio.resampled(*audio.read_waveform(path), self.sample_rate_hz)
            return audio.filter_bank(*sound, mel_bins, frames)[None]
