"""What the page, its key and its readers' files have in common."""

from __future__ import annotations

FORMAT, KEY_FORMAT, VERSION = "usmri-reading", "usmri-study-key", 1
# Jiao et al. 2019 (MLMI), section 3.2: from 1, bad, to 5, excellent.
SCALE = ((1, "bad"), (2, "poor"), (3, "fair"), (4, "good"), (5, "excellent"))
SCORES = tuple(value for value, _ in SCALE)
TEST = "test"
# Value, label, group: Table 1 of the same paper has medical experts and beginners.
KINDS = (
    ("radiologist", "Radiologist", "Expert"),
    ("fetal-medicine", "Obstetrician or specialist in fetal medicine", "Expert"),
    ("sonographer", "Sonographer", "Expert"),
    ("other-physician", "Another physician", "Beginner"),
    ("researcher", "Researcher in medical imaging", "Beginner"),
    ("beginner", "None of these", "Beginner"),
    (TEST, "I only test this page", "Test"),
)
GROUPS = tuple(dict.fromkeys(group for _, _, group in KINDS))
GROUP_OF = {kind: group for kind, _, group in KINDS}
CONSENT = (
    "You will see images of the fetal brain, one at a time. Some are magnetic resonance images, some were made by "
    "computer programs from ultrasound. For each, say how good it is as an MR image of the fetal brain, from 1 (bad) "
    "to 5 (excellent), and click the places that look wrong, if there are any. Some images come twice.",
    "Your answers stay on this device until you save them as a file and hand that over. The file holds your answers, "
    "how long you took for each, your profession and your years of experience; no name and no address. You may stop at "
    "any time, pause, and go on later. The answers are used to compare methods, not to judge readers.",
)
