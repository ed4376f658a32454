"""Open, check and decode media: any file, array, bytes or decoder object becomes pixels or a waveform.

Everything is decoded by wheels alone: Pillow and PyAV. Each kind has a `check_*`, which reads types and
headers only and costs little, and a `load_*`, which decodes. Both raise [`MediaError`] with the reason and the remedy;
the caller knows which input it was.
"""

from lco_embedding.modules.media.audio import (
    AudioDecoder,
    check_audio,
    check_sound_track,
    has_sound_track,
    load_audio,
    load_sound_track,
)
from lco_embedding.modules.media.files import (
    Extent,
    MediaError,
    Stream,
    decode_base64,
    decode_data_uri,
    describe,
    kind_of_file,
    read_stream,
    settle_kind,
    sniff,
)
from lco_embedding.modules.media.formats import Kind, kind_of_path
from lco_embedding.modules.media.images import check_image, load_image
from lco_embedding.modules.media.video import Clip, Sampling, VideoDecoder, check_video, load_video

__all__ = [
    "AudioDecoder",
    "Clip",
    "Extent",
    "Kind",
    "MediaError",
    "Sampling",
    "Stream",
    "VideoDecoder",
    "check_audio",
    "check_image",
    "check_sound_track",
    "check_video",
    "decode_base64",
    "decode_data_uri",
    "describe",
    "has_sound_track",
    "kind_of_file",
    "kind_of_path",
    "load_audio",
    "load_image",
    "load_sound_track",
    "load_video",
    "read_stream",
    "settle_kind",
    "sniff",
]
