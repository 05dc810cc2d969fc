"""Everything of USMRISynthesis that touches Slicer. It imports `USMRISynthesisLib`, never the other way round.

It may import slicer, qt and vtk, but no torch: the networks run in a child process (`runs/worker_process.py`).

    setup/    what stands by from the start, and what is installed on demand
    files/    export, marks in saved files, DICOM, sample data, Kretz
    nodes/    nodes of the scene: made, read, related to each other
    views/    layouts, marks and what is drawn in the views
    runs/     work in the child process: one image, a sequence, a folder, slice spacing
    panel/    the widgets' behaviour, section by section
"""
