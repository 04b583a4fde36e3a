"""mmdet's index of published weights, read from its wheel: names, addresses, hashes, published AP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfl_lab.addresses import digest_in_name, file_name
from gfl_lab.errors import InputError
from gfl_lab.zoo import source
from gfl_lab.zoo.metafile import find, read_index

METAFILE = """
Collections:
  - Name: Method
    Paper: {URL: 'https://example.org/method', Title: 'A method'}
Models:
  - Name: own_name
    In Collection: Method
    Config: configs/more%2Bmore/a_1x_coco.py
    Results:
      - {Task: Instance Segmentation, Dataset: COCO, Metrics: {mask AP: 30.0}}
      - {Task: Object Detection, Dataset: COCO, Metrics: {box AP: 40.5}}
    Weights: https://example.org/a/a%2Bb-0123abcd.pth
  - Name: b_1x_coco
    Config: b_1x_coco.py
    Results: {Task: Object Detection, Dataset: COCO, Metrics: {box AP: 1.0}}
  - Name: masks
    Config: configs/more+more/masks.py
    Results: [{Dataset: COCO, Metrics: {mask AP: 30.0}}]
    Weights: https://example.org/masks-0123abcd.pth
  - Name: no_hash
    Config: configs/more+more/no_hash.py
    Results: [{Dataset: COCO, Metrics: {box AP: 30.0}}]
    Weights: https://example.org/no_hash_20200101.pth
  - Name: two
    Config: configs/more+more/two.py
    Results: [{Dataset: COCO, Metrics: {box AP: 30.0}}]
    Weights: [https://example.org/one-0123abcd.pth, https://example.org/two-0123abcd.pth]
  - Name: gone
    Config: configs/more+more/gone.py
    Results: [{Dataset: COCO, Metrics: {box AP: 30.0}}]
    Weights: https://example.org/gone-0123abcd.pth
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of configs with each kind of entry that mmdet's wheel has."""
    own = tmp_path / "configs"
    (own / "more+more").mkdir(parents=True)
    (own / "more+more" / "metafile.yml").write_text(METAFILE)
    for name in ("a_1x_coco", "b_1x_coco", "masks", "no_hash", "two", "unlisted"):
        (own / "more+more" / f"{name}.py").touch()
    monkeypatch.setattr(source, "configs_folder", lambda: own)
    source.names.cache_clear()
    yield own
    source.names.cache_clear()


def test_an_entry_has_what_the_file_says(folder: Path) -> None:
    entry = find("a_1x_coco")
    assert entry == find("own_name") and entry.config == "more+more/a_1x_coco.py"
    assert entry.config_path == folder / "more+more" / "a_1x_coco.py"
    assert (entry.address, entry.file, entry.digest) == ("https://example.org/a/a%2Bb-0123abcd.pth", "a+b-0123abcd.pth", "0123abcd")
    assert (entry.box_ap, entry.dataset, entry.title, entry.paper) == (40.5, "COCO", "A method", "https://example.org/method")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a_2x_coco", ["mmdet:a_2x_coco: mmdet has no config of this name", "Did you mean a_1x_coco"]),
        ("zz", ["no config of this name", "Names are those of mmdet's config files"]),
        ("unlisted", ["publishes no weights for this config"]),
        ("b_1x_coco", ["lists this config without a weights file", "Did you mean a_1x_coco?"]),
        ("masks", ["publishes no box AP for it (results: mask AP 30)"]),
        ("no_hash", ["gives no hash for no_hash_20200101.pth", "Download https://example.org/no_hash_20200101.pth yourself"]),
        ("two", ["publishes 2 weight files"]),
        ("gone", ["its config more+more/gone.py is missing", "https://example.org/gone-0123abcd.pth"]),
    ],
)
def test_what_cannot_be_fetched_says_why(folder: Path, name: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        find(name)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_wheel_is_read_whole() -> None:
    """Counts of mmdet 3.3.0's wheel: 679 names of 588 configs; of a detector of boxes with one checked file: 533."""
    index = read_index(source.configs_folder())
    entries = {entry.config: entry for entry in index.values()}
    assert index.keys() >= {entry.name for entry in entries.values()}
    usable = []
    for name in {entry.name for entry in entries.values()}:
        try:
            usable.append(find(name))
        except InputError as error:
            assert len(str(error)) > 40
    assert (len(index), len(entries), len(usable)) == (679, 588, 533)
    assert all(entry.address.startswith("https://") and 0 < entry.box_ap < 100 for entry in usable)
    gfl = find("gfl_r50_fpn_1x_coco")
    assert (gfl.config, gfl.digest, gfl.box_ap) == ("gfl/gfl_r50_fpn_1x_coco.py", "25944287", 40.2)
    assert find("faster-rcnn_r50_fpn_gn-ws-all_1x_coco").config.startswith("gn+ws/")


def test_the_index_needs_no_torch() -> None:
    code = "import sys; from gfl_lab.zoo.metafile import find; find('gfl_r50_fpn_1x_coco'); print({'torch', 'mmdet', 'mmengine'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_hash_in_a_name() -> None:
    assert digest_in_name("https://example.org/resnet18-f37072fd.pth") == "f37072fd"
    assert digest_in_name("https://example.org/a%2Fb-12345678.pth?x=-87654321.pth") == "12345678"
    assert digest_in_name("https://example.org/net_20200101.pth") == digest_in_name("https://example.org/net-1234567.pth") == ""
    assert file_name("https://example.org/a/b%20c.pth#d") == "b c.pth"
