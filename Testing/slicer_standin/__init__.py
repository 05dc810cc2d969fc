"""A stand-in for testing Slicer modules on machines without Slicer. It is not part of the product and not installed.

Real: MRML, its logic, displayable managers and `slicer.util`, from the `slicer-core` wheel. Qt for Python stands in
for PythonQt; Slicer's and CTK's own Qt classes are generated from `qt-classes.json.gz`, so a property, signal or slot
that Slicer does not have raises AttributeError, and one that it has but the host does not play raises
NotImplementedError. `ScriptedLoadableModule`, `parameterNodeWrapper`, `i18n` and `slicer.app` are the parts that
the product uses, written after their documented behaviour.

    from slicer_standin import start
    host = start()                       # once per process; then `import slicer, qt, ctk, vtk` as in Slicer
    module = host.load_module(path)      # an instantiated scripted module
    widget = host.open_module(module)    # its panel
"""

from __future__ import annotations

from slicer_standin.startup import start

__all__ = ["start"]
