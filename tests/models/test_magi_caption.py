"""Captions against what the published preprocessing makes of them, recorded with bs4 and ftfy."""

import pytest
from motioncache_pack.motioncache_core.models.magi1.caption import clean_caption

RECORDED = {
    "A red fox (walks:1.2) through fresh snow -- at the edge... of a [birch] forest.":
        "a red fox walks:1.2 through fresh snow - at the edge of a birch forest.",
    "Visit https://example.com/a-b/c?x=1 or www.shop.co now!": "visit ?x=1 or now!",
    '<person> says “hello” & it’s 50% off&amp;&quot;x&quot;':
        'person says "hello" it\'s 50% off "x"',
    "img_0001.JPG by @nick, 1920x1080, page 12, #123 #12345 1234567": "by ,",
    "this-is-my-cute_cat-photo-name": "this is my cute cat photo name",
    "well-known, state-of-the art": "well-known, state-of-the art",
    "free shipping worldwide  free download": "worldwide",
    "<b>bold</b> text<br>new\\nline": "bold textnew line",
    "192.168.1.10 at 5:30 ": "at 5:30",
    "jc6640 jc6640vc 6640vc231 j2d1a2a": "",
    "'quoted caption'": "quoted caption",
    "a+b%20c": "a b c",
    "  Mixed—dash–es ‒ here : there ,now": "mixed-dash-es - here: there , now",
    "漢字 and かな text": "and かな text",
    "tea &lt;i&gt;cup&lt;/i&gt; ½ price ® ™": "tea cup< i> price",
    "click on here": "",
    "": "",
    ".hidden": "",
    "a . b . c": "a b c",
    "x,y.z/w": "x, y. z w",
    "tom & jerry's, (2 mice)": "tom jerry's, 2 mice",
    "& < > <- 3 < 4 and 5 > 2": "< > <- 3 < 4 and 5 > 2",
    "café naïve": "café naïve",
    "a\nb\tc": "a b c",
}  # fmt: skip


@pytest.mark.parametrize("text", RECORDED)
def test_a_caption_is_cleaned_as_published(text):
    assert clean_caption(text) == RECORDED[text]
