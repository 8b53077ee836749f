"""Sound files to time-frequency pictures."""

from contextlib import suppress
from itertools import chain
from pathlib import Path

import av
import librosa
import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from dataset._limits import check_cost, naming
from dataset.media.video import COMPLETE, announced_seconds, decoded, opened, with_codec
from dataset.media.whole import UNKNOWN, check_whole, with_size
from utils.errors import BadInput

SILENCE = 1e-4  # largest distance from the mean, full scale = 1, that still counts as silent
FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG")
BLOCK = 2**20  # samples read at a time, of all channels
RATES_HZ = 1000, 1_000_000  # a filter bank begins at 20 Hz, in windows of 25 ms
LOUDEST = 10  # peak; floats may exceed full scale, but not by 20 dB
WINDOW_SECONDS = 0.025  # of the filter bank


class Silent(BadInput):
    """There is nothing to hear in a recording."""

    sound: tuple[np.ndarray, int]  # what it holds all the same, and its rate in Hz


def read_waveform(path: Path) -> tuple[np.ndarray, int]:
    """Mono samples in [-1, 1], shape (N,), at the file's own rate, and that rate in Hz.

    Raises BadInput where the file is unreadable, cut short, empty, silent or shorter than 25 ms,
    or holds numbers that are no sound.
    """
    check_whole(path)
    blocks, count, total = [], 1, 0
    with naming(path, what="unreadable sound"), soundfile.SoundFile(with_size(path)) as file:
        if file.format not in FORMATS:
            known = ", ".join(FORMATS)
            raise BadInput(f"{path}: holds {file.format}; save it as one of {known}")
        while count:  # by blocks, since a damaged header may promise any number
            block = file.read(max(1, BLOCK // file.channels), dtype="float32", always_2d=True)
            blocks.append(block.mean(1))
            count = len(block)
            total += count
            check_length(total, file.samplerate)
        promised, sample_rate_hz = file.frames, file.samplerate
        is_counted = file.format in ("FLAC", "OGG")  # of WAV the bytes tell, see check_whole
    samples = np.concatenate(blocks)
    if is_counted and len(samples) < promised < UNKNOWN:
        raise BadInput(f"{path}: truncated, {len(samples)} of {promised} samples")
    return audible(path, samples, sample_rate_hz), sample_rate_hz


def read_sound_track(path: Path) -> tuple[np.ndarray, int]:
    """The sound of a video: mono samples in [-1, 1], (N,), at its own rate, and that rate in Hz.

    As a 16-bit WAV of the track would hold it; what changes on its way, such as the number of its
    channels, is mono at the first rate all the same. Raises BadInput where the file is unreadable,
    has no sound, or is cut short or silent.
    """
    with opened(path) as container:
        if not container.streams.audio:
            raise BadInput("has no sound")
        stream = with_codec(container.streams.audio[0])
        promised = announced_seconds(container, stream)
        sample_rate_hz = stream.rate
        check_rate(path, sample_rate_hz)
        kind, to_mono, pieces, seconds = None, None, [], 0.0
        for frame in chain(decoded(container, stream), [None]):
            kind_before, kind = kind, frame and (frame.format, frame.layout.name, frame.rate)
            if to_mono and kind != kind_before:
                pieces += to_mono.resample(None)  # what it still holds
            if not frame:
                break
            check_rate(path, frame.rate)
            seconds += frame.samples / frame.rate
            check_length(round(seconds * sample_rate_hz), sample_rate_hz)
            if frame.format.name.startswith(("flt", "dbl")):  # 16 bits would hide them
                check_full_scale(path, frame.to_ndarray())
            if kind != kind_before:
                to_mono = av.AudioResampler(format="s16", layout="mono", rate=sample_rate_hz)
            pieces += to_mono.resample(frame)
        pieces = [piece.to_ndarray()[0] for piece in pieces]
    samples = np.concatenate([np.zeros(0, np.int16), *pieces]).astype(np.float32) / 2**15
    if len(samples) < COMPLETE * promised * sample_rate_hz:
        seconds = len(samples) / sample_rate_hz
        raise BadInput(f"{path}: truncated sound, {seconds:.1f} of {promised:.1f} s")
    return audible(path, samples, sample_rate_hz), sample_rate_hz


def audible(path: Path, samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """The samples. Raises BadInput where they are no sound, and Silent, which holds them, where
    there is nothing to hear.

    A constant signal is silent: the filter bank takes the mean away.
    """
    check_full_scale(path, samples)
    loudness = np.abs(samples - samples.mean(dtype=float)) if len(samples) else samples
    if loudness.max(initial=0) < SILENCE:
        silence = Silent(f"{path}: silent")
        silence.sound = samples, sample_rate_hz
        raise silence
    check_rate(path, sample_rate_hz)
    if len(samples) < WINDOW_SECONDS * sample_rate_hz:
        raise BadInput(f"{path}: too short, {len(samples)} samples at {sample_rate_hz} Hz")
    return samples


def check_rate(path: Path, sample_rate_hz: int) -> None:
    least, most = RATES_HZ
    if not least <= sample_rate_hz <= most:
        raise BadInput(f"{path}: sampled at {sample_rate_hz} Hz, sound needs {least} to {most}")


def check_length(count: int, sample_rate_hz: int) -> None:
    """Raises BadInput for more samples, or seconds of them, than are read."""
    check_cost(samples=count, seconds_of_sound=count / sample_rate_hz)


def check_full_scale(path: Path, samples: np.ndarray) -> None:
    """Raises BadInput for samples that are nan or far beyond full scale."""
    peak = np.abs(samples).max(initial=0)
    if not peak <= LOUDEST:  # nan too
        raise BadInput(f"{path}: samples reach {peak:g}, where full scale is 1; scale them to that")


def resampled(
    samples: np.ndarray, sample_rate_hz: int, wanted_hz: int | None
) -> tuple[np.ndarray, int]:
    """(samples, their rate) at `wanted_hz`; as they are where that is None or their own."""
    if wanted_hz in (None, sample_rate_hz):
        return samples, sample_rate_hz
    check_length(len(samples) * wanted_hz // sample_rate_hz, wanted_hz)
    return librosa.resample(samples, orig_sr=sample_rate_hz, target_sr=wanted_hz), wanted_hz


def check_one_rate(paths: list[Path]) -> None:
    """Raises BadInput with rates, counts and rare files where they have several sample rates.

    A filter bank covers 0 to half the rate, so that a tone would lie in other bins. Files that
    cannot be opened are left to `read_waveform`.
    """
    of_rate: dict[int, list[str]] = {}
    for path in paths:
        with suppress(Exception):
            of_rate.setdefault(soundfile.info(path).samplerate, []).append(path.name)
    if len(of_rate) > 1:
        rates = sorted(of_rate, key=lambda rate: (-len(of_rate[rate]), rate))
        counts = ", ".join(f"{len(of_rate[rate])} at {rate} Hz" for rate in rates)
        few = [name for rate in reversed(rates[1:]) for name in of_rate[rate]][:3]
        raise BadInput(
            f"{paths[0].parent}: sound of several sample rates, {counts} (such as "
            f"{', '.join(few)}); resample it with --sample_rate {rates[0]}"
        )


def filter_bank(waveform: np.ndarray, sample_rate_hz: int, mel_bins=128, frames=1024) -> Tensor:
    """Kaldi log filter bank, (frames, mel_bins), roughly in [-1, 1].

    Waveform minus its mean; 25 ms Hanning window, 10 ms shift, no dither; cut or zero-padded to
    `frames`; (x + 4.503877) / (2 * 5.141276).
    Source: the Kinetics-Sounds script of OGM-GE, which MMPareto's authors name as theirs.
    """
    needed = int((frames * 0.010 + WINDOW_SECONDS) * sample_rate_hz) + 1  # hours would take GB
    bank = torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(waveform[:needed] - waveform.mean())[None],
        htk_compat=True,
        sample_frequency=sample_rate_hz,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=mel_bins,
        dither=0.0,
        frame_shift=10,
    )[:frames]
    bank = torch.nn.functional.pad(bank, (0, 0, 0, frames - len(bank)))
    return (bank + 4.503877) / (2 * 5.141276)


def ogm_spectrogram(waveform: np.ndarray, sample_rate_hz: int) -> Tensor:
    """log(|STFT| + 1e-7), (257, 188): the CREMA-D sound of OGM-GE.

    22,050 Hz, cut to 3 s or repeated to fill them, clipped to [-1, 1]; window 512, hop 353 samples.
    """
    rate_hz, seconds = 22050, 3
    samples, _ = resampled(waveform, sample_rate_hz, rate_hz)
    samples = np.resize(samples, rate_hz * seconds).clip(-1, 1)
    stft = librosa.stft(samples, n_fft=512, hop_length=353)
    return torch.from_numpy(np.log(np.abs(stft) + 1e-7))
