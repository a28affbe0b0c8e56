"""What is drawn where, in which colour, and that every detector's look can be drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.visualize.drawing.colours import MAGMA, ORANGE, SKY, VIRIDIS, colours_at, ramp
from qdet.visualize.drawing.looks import Style, draw_look
from qdet.visualize.drawing.page import CAPTION, GAP, Row, Sample, Scale, lay_out
from qdet.visualize.drawing.panel import Panel
from qdet.visualize.looking.look import available, look
from tests.support.detector_variants import CLASSES, ONE_EACH, SIZES, VARIANTS, images, shaken

NAMES = [f"class {i}" for i in range(CLASSES)]


def grey(height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def near(picture: np.ndarray, ink: tuple[int, int, int]) -> np.ndarray:
    return (abs(picture.astype(int) - ink).max(-1) < 12).nonzero()


def test_scales_are_matplotlibs_within_their_interpolation():
    matplotlib = pytest.importorskip("matplotlib")
    values = np.linspace(0, 1, 200)
    for name, ours in (("viridis", VIRIDIS), ("magma", MAGMA)):
        theirs = matplotlib.colormaps[name](values)[:, :3] * 255
        assert abs(colours_at(values, ours) - theirs).max() < 17
        light = colours_at(values, ours) @ np.array((0.299, 0.587, 0.114))
        assert (np.diff(light) > -1).all()  # lightness alone orders them


def test_a_ramp_ends_at_the_ends():
    inks = ramp(6, low=0.2)
    assert len(set(inks)) == 6
    assert inks[-1] == (253, 231, 37)


def test_marks_lie_at_their_place_in_pixels_of_the_image():
    panel = Panel(grey(), size=320)
    panel.box(np.array((10.0, 20, 40, 50)), ORANGE)
    panel.dots(np.array(((50.0, 10.0),)), [SKY], [4.0])
    picture = panel.finish()
    assert picture.shape == (320, 320, 3)
    ys, xs = near(picture, ORANGE)
    assert (xs.min(), xs.max()) == pytest.approx((50, 200), abs=2)
    assert (ys.min(), ys.max()) == pytest.approx((100, 250), abs=2)
    ys, xs = near(picture, SKY)
    assert xs.mean() == pytest.approx(250, abs=1)
    assert ys.mean() == pytest.approx(50, abs=1)
    assert np.ptp(xs) == pytest.approx(8, abs=2)
    assert (picture[150:200, 90:160] == 128).all()


def test_coordinates_of_a_panels_pixels_are_those_that_marks_are_placed_at():
    panel = Panel(grey(40, 80), size=160)
    assert panel.pixels_xy.shape == (80, 160, 2)
    assert panel.pixels_xy[0, 0] == pytest.approx((0.25, 0.25))
    assert panel.pixels_xy[-1, -1] == pytest.approx((79.75, 39.75))


def test_dimming_takes_colour_away_and_then_light():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 200
    red, green, blue = Panel(image, size=64, grey=1.0, dark=0.5).finish()[32, 32].tolist()
    assert red == green == blue == pytest.approx(200 * 0.299 / 2, abs=1)
    assert Panel(image, size=64).finish()[32, 32].tolist() == [200, 0, 0]


@settings(max_examples=20)
@given(
    st.lists(st.tuples(*[st.floats(-1e3, 1e3) | st.floats()] * 4), min_size=1, max_size=5),
    st.integers(1, 90),
    st.integers(1, 90),
)
def test_anything_can_be_drawn_on_any_image(corners, height, width):
    panel = Panel(grey(height, width), size=96)
    for box in np.array(corners):
        panel.box(box, ORANGE)
        panel.box(box, ORANGE, dashed=True)
        panel.cross(box[:2])
        panel.ellipse(box[:2], abs(box[2:]), SKY)
    assert max(panel.finish().shape[:2]) == 96


def test_panels_keep_their_pixels_on_a_page_and_the_legend_lies_below():
    panels = tuple(np.full((50, 60, 3), shade, np.uint8) for shade in (10, 20, 30))
    scale = Scale("level", VIRIDIS, ((0.0, "4"), (1.0, "32")))
    page = lay_out(
        [Row(panels, "cat 0.9"), Row(panels[:2])], title="t", legend=[Sample("box", ORANGE), scale]
    )
    for shade, count in ((10, 2), (20, 2), (30, 1)):
        assert (page == shade).all(-1).sum() >= 50 * 60 * count
    assert page.shape[1] == 3 * 60 + 4 * GAP
    assert near(page[-80:], ORANGE)[0].size
    assert page[:, -GAP // 2 :].min() == 255  # the legend is wrapped, not cut off


@pytest.mark.parametrize("name", sorted(ONE_EACH))
def test_the_look_of_every_detector_is_drawn_a_row_per_query_and_a_panel_per_stage(name):
    detector = shaken(VARIANTS[name][0].build(CLASSES)).eval()
    image = images()[1, :, :100].permute(1, 2, 0).numpy()
    original = torch.tensor([[128, 96], [100, 128]])
    for what in available(detector):
        seen = look(detector, images(), SIZES, original, what=what)[1]
        queries = seen.boxes.best(2, score=0.0)
        picture = draw_look(image, seen, queries, Style(NAMES, size=90))
        plain = draw_look(image, seen, queries[:1], Style(NAMES, size=90))
        across = 2 if what == "stages" else seen.boxes.stages
        assert picture.shape[1] >= across * 90 + (across + 1) * GAP
        if what != "stages":
            assert picture.shape[0] > plain.shape[0] + 65
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500


def test_attention_is_brightest_where_it_is_strongest():
    from qdet.visualize.looking.attention import AttentionMaps
    from qdet.visualize.looking.look import Look
    from qdet.visualize.looking.stages import StageBoxes

    cells = np.full((1, 1, 4, 4), 0.001)
    cells[0, 0, 1, 2] = 1
    boxes = StageBoxes(np.array([[[1.0, 1, 5, 5]]]), np.array([[0.9]]), np.array([[0]]))
    seen = Look("attention", boxes, (AttentionMaps((cells,), (16,), (64, 64)),))
    picture = draw_look(grey(), seen, [0], Style(NAMES, size=256))
    top = GAP + 2 * CAPTION
    panel = picture[top : top + 256, GAP : GAP + 256].astype(int).sum(-1)
    y, x = np.unravel_index(panel[40:].argmax(), panel[40:].shape)
    assert abs(x - 160) < 8
    assert abs(y + 40 - 96) < 8


def test_a_long_title_fits_a_narrow_sheet():
    from qdet.visualize.boxes import contact_sheet

    title = "a job of a long name, seed 0, epoch 3"
    sheet = contact_sheet([grey(120, 360)], title=title)
    assert (sheet[:36, -20:] == sheet[0, 0]).all()
    wide = contact_sheet([grey(120, 900)], title=title)
    assert (wide[:50] != wide[0, 0]).any(-1).sum() > (sheet[:50] != sheet[0, 0]).any(-1).sum()
