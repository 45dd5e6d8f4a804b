"""Form-encoded text: read as its senders mean it, or not at all."""

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.forms import FIELDS_MAX, read_pairs

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(form=st.dictionaries(texts, texts, max_size=6), as_bytes=st.booleans())
def test_what_was_encoded_comes_back(form: dict[str, str], as_bytes: bool) -> None:
    text = urlencode(form)
    assert dict(read_pairs(text.encode() if as_bytes else text)) == form


@given(
    parts=st.lists(
        st.sampled_from(
            ["%41", "%3d", "%3D", "%26", "%C3%A9", "%0A", "=", "+", "\n", "3D", "&", "_"]
        )
    )
)
def test_any_good_form_is_read_as_the_standard_library_reads_it(parts: list[str]) -> None:
    text = "".join(parts)
    expected = parse_qsl(text, keep_blank_values=True)
    if len(dict(expected)) == len(expected):
        assert read_pairs(text) == tuple(expected)


@pytest.mark.parametrize(
    "text",
    [
        "a=%ff",
        "a=\u00e9",
        b"a=\xff",
        b"a=\xc3\xa9",
        "a=1&a=2",
        "a=1&%61=1",
        "a=%",
        "a=%4",
        "a=%4g",
        "%=a",
        "a=%00",
        "%00=a",
        "a&" * FIELDS_MAX + "a",
    ],
)
def test_what_cannot_be_read_for_certain_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # any text: it is shown to the caller
        read_pairs(text)
