"""The part of USMRISynthesis that uses Slicer. It imports `USMRISynthesisLib`, never the other way round.

It may import slicer, qt and vtk, but no torch: the networks run in a child process (`runs/worker_process.py`).

    setup/    start-up hook, and installation of packages on demand
    files/    export, marks in saved files, DICOM, sample data, Kretz
    nodes/    reading and writing the nodes of the scene
    views/    layouts, marks and overlays in the views
    runs/     work in the child process: one image, a sequence, a folder, slice spacing
    panel/    the widgets' behaviour, section by section
"""
