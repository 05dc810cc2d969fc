"""A walk through the whole panel, in Slicer or in the stand-in: steps, their transcript and screenshots.

    everything.py     the order of the steps
    transcript.py     the transcript, and the comparison of two transcripts
    walk.py           clicks, waiting, screenshots
    views.py          what the views show: layers, marks, pictures
    *_steps.py        one section of the panel after another

Nothing in here but Slicer, Qt, VTK, numpy and the module itself.
"""
