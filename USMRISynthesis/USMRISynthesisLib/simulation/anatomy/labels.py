"""Label numbers of the simulated head: the atlas's 1-8, then what the simulator adds."""

from __future__ import annotations

from USMRISynthesisLib.simulation.anatomy.atlas import (
    BRAINSTEM,
    CEREBELLUM,
    CORPUS_CALLOSUM,
    CORTEX,
    DEEP_GREY,
    EXTERNAL_CSF,
    VENTRICLES,
    WHITE_MATTER,
)

BACKGROUND = 0
SKULL, SCALP, FALX, CAVUM, CHOROID, EYE, AMNIOTIC, MATERNAL, FACE = 9, 10, 11, 12, 13, 14, 15, 16, 17
SUTURE, LIMB, PLACENTA, MASS = 18, 19, 20, 21
BRAIN = (
    WHITE_MATTER,
    VENTRICLES,
    CEREBELLUM,
    EXTERNAL_CSF,
    CORTEX,
    DEEP_GREY,
    BRAINSTEM,
    CORPUS_CALLOSUM,
    FALX,
    CAVUM,
    CHOROID,
    MASS,
)  # whatever lies inside the skull: what is measured over it leaves no anomaly out
LABEL_NAMES = {
    BACKGROUND: "background", WHITE_MATTER: "white matter", VENTRICLES: "ventricles", CEREBELLUM: "cerebellum",
    EXTERNAL_CSF: "external CSF", CORTEX: "cortex", DEEP_GREY: "deep grey", BRAINSTEM: "brainstem",
    CORPUS_CALLOSUM: "corpus callosum", SKULL: "skull", SCALP: "scalp", FALX: "falx", CAVUM: "cavum",
    CHOROID: "choroid plexus", EYE: "eye", AMNIOTIC: "amniotic fluid", MATERNAL: "maternal tissue",
    FACE: "face and neck", SUTURE: "suture", LIMB: "limb", PLACENTA: "placenta", MASS: "mass",
}  # fmt: skip
