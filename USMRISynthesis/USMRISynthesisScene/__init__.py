"""Everything of USMRISynthesis that touches Slicer: nodes, the worker process, views, the panel.

The arrows point one way: this package imports `USMRISynthesisLib`, never the other way round. It may import
slicer, qt and vtk, but no torch: the networks run in a child process (`process.py`).

    nodes.py            volume nodes <-> Volume, the nodes that hold a result
    process.py          the child process: requests out, events in, and how to stop it
    worker_run.py       one request: export, worker, import into the scene only after success; cancel and wait
    synthesis.py        the request that makes an MR-like volume
    respacing.py        the request that makes thinner slices
    batch.py            a folder of files on the same process
    torch_install.py    is torch there, and who installs it
    offline.py          PyTorch without network
    layout.py           ultrasound | fused | MR-like, side by side
    view_fit.py         slices through the head, which fills the views
    reveal.py           the MR-like image alone, in a window at the mouse
    rendering.py        the MR-like image in 3D
    export.py           captures, report, DICOM
    dicom_plugin.py     the same from Slicer's own DICOM export
    saving.py           files that Slicer saves by itself
    packages.py         the Python packages that they need
    handoff.py          masks as a segmentation, one transform for all
    registration.py     other modules opened with the nodes chosen
    manual_alignment.py landmarks instead of the automatic alignment
    outline.py          where an alignment says that the head is
    companions.py       outline and landmarks stay on the head when its parent transform changes
    marking.py          the words "SYNTHETIC" in every view that shows a synthetic image
    contours.py         the MR-like image's contours over the ultrasound
    panel.py            what the user clicks: one run
    panel_*.py          the sections of the panel under it; panel_runs.py what those with runs of their own share
    answering.py        clicks that end in one sentence
    parameters.py       its choices, saved with the scene
    startup.py          what stands by before the panel is opened
    settings.py         its choices, remembered for the user
    model_choice.py     what the chosen model is and can do
    inputs.py           which volume is the ultrasound
    conversion.py       colour to greyscale, voxel sizes put right
    kretz.py            what to do with a Kretz file
    sequence.py         all frames of a 4D sequence
    watching.py         one node at a time followed
    progress.py         percentage, stage, time left
    sample_data.py      the two images that come with the module
"""
