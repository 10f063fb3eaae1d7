"""Small pictures of the UI's metadata."""

import re
from xml.etree import ElementTree

from assets import pictures


def test_a_training_curve_is_one_picture_with_its_last_step_and_no_more_points_than_it_can_show() -> None:
    rows = [{"step": step, "loss": 3.0 / step, "learning_rate": 1e-3, "tokens": 9} for step in range(1, 501)]
    for count in (1, 7, 500):
        drawn = pictures.training(rows[:count])
        ElementTree.fromstring(drawn)
        markers = len(re.findall(r"class=.marker", drawn)) or drawn.count("<circle")
        assert 1 <= markers <= 70
    assert "nats per answer token" in drawn and "step" in drawn
    assert pictures.markdown(drawn, "Loss").startswith("![Loss](data:image/svg+xml;base64,")
