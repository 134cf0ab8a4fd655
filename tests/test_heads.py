"""What a phantom knows besides its caption, and what another network sees in it."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from kneeclip.checkpoints import save_state
from kneeclip.errors import KneeError
from kneeclip.heads import Heads, load_maps, phantoms_of
from kneeclip.phantom import make_phantoms

SCRIPTS = Path(__file__).parents[1] / "results" / "phantom_to_real"


@pytest.fixture
def settings(tiny_settings):
    return dataclasses.replace(tiny_settings, image_size=56, map_weight=0.5)


@pytest.fixture
def maker(monkeypatch):
    """The script that makes maps, as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import maps

    return maps


def test_what_another_network_sees_is_one_more_squared_error(settings):
    knees = make_phantoms(4, 3, size=56)
    maps = {"maps": torch.randn(8, 4, 3).half(), "patches": torch.tensor([5, 6, 9, 10])}
    torch.manual_seed(0)
    plain = Heads(knees.anatomy, settings)
    torch.manual_seed(0)
    taught = Heads(knees.anatomy, settings, maps)
    tokens, index = torch.randn(2, 17, settings.width), torch.tensor([6, 1])
    said = torch.stack([taught.sight(tokens[:, 1 + patch]) for patch in (5, 6, 9, 10)], 1)
    more = ((said - maps["maps"][[6, 1]].float()) ** 2).mean()
    alone = plain(tokens, index, settings)
    torch.testing.assert_close(taught(tokens, index, settings), alone + 0.5 * more)
    assert not [name for name in taught.state_dict() if "seen" in name]  # the maps are in no checkpoint


def test_maps_of_other_phantoms_are_refused(settings, tmp_path):
    file = tmp_path / "maps.safetensors"
    with pytest.raises(KneeError, match=r"no file of maps .*maps\.safetensors.*maps\.py"):
        load_maps(file, settings)
    seen = {"maps": torch.zeros(24, 4, 3).half(), "patches": torch.arange(4)}
    save_state(file, seen, {"step": 3})  # a run's checkpoint
    whole = file.read_bytes()
    for content in (whole, whole[:50], b""):
        file.write_bytes(content)
        with pytest.raises(KneeError, match="can't be read .*maps.py"):
            load_maps(file, settings)
    save_state(file, seen, {"of": phantoms_of(settings), "network": "a network"})
    assert load_maps(file, settings)["maps"].shape == (24, 4, 3)
    assert load_maps(file, dataclasses.replace(settings, lr=1.0, epochs=9))["network"] == "a network"
    with pytest.raises(KneeError, match="other phantoms .seed 1000000, not 5"):
        load_maps(file, dataclasses.replace(settings, seed=5))
    save_state(file, seen, {"of": phantoms_of(settings) | {"drawing": "before"}, "network": "a network"})
    with pytest.raises(KneeError, match="other phantoms .drawing before"):
        load_maps(file, settings)


def test_a_map_is_read_where_the_patches_of_the_model_lie(maker, settings):
    """Of a network that sees nothing but where it looks: right and down, and their opposites."""

    def sight(x):
        at = torch.linspace(-1, 1, 15)[1::2]  # centres of seven places
        right, down = at.expand(len(x), 7, 7), at[:, None].expand(len(x), 7, 7)
        return torch.stack([right, down, -right, -down], 1)

    found = maker.maps(dataclasses.replace(settings, image_size=112, patients=1), sight)
    assert found["maps"].shape == (2, 36, 4)  # of 8 × 8 centres, 6 × 6 lie in the middle 176 of 224 pixels
    assert found["patches"].tolist() == [8 * row + column for row in range(1, 7) for column in range(1, 7)]
    centre = torch.tensor([(2 * i + 1) / 8 - 1 for i in range(1, 7)]).expand(6, 6)
    place = torch.stack([centre, centre.T], -1).flatten(0, 1)
    seen = F.normalize(found["maps"][0, :, :2].float(), dim=-1)
    torch.testing.assert_close(seen, F.normalize(place, dim=-1), atol=2e-3, rtol=0)
    assert maker.maps(settings, sight)["patches"].tolist() == [*range(16)]
    right = dataclasses.replace(settings, image_size=112, patients=1, sides="R")
    assert maker.maps(right, sight)["maps"].shape == (1, 36, 4)  # of the knees that are learnt from alone


def test_a_file_of_maps_is_not_replaced(maker, settings, tmp_path):
    (tmp_path / "maps.safetensors").write_bytes(b"a quarter of an hour")
    with pytest.raises(KneeError, match="there already"):
        maker.main(tmp_path / "maps.safetensors", settings)


def test_the_network_of_photographs_gives_a_map_of_a_sixteenth(maker):
    with torch.no_grad():
        assert maker.Sight(weights=False)(torch.rand(1, 1, 224, 224)).shape == (1, 112, 14, 14)
